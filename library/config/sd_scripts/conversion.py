"""Configs of sd-scripts and its GUIs, read wherever they are: neither the model nor the pictures need be there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.config.build import held, implied_values, typed_values
from library.config.catalog import by_any_name, catalog
from library.config.check_data import DATA_CHECKS
from library.config.check_training import TRAINING_CHECKS
from library.config.command_line import SOURCE, read_command_line
from library.config.conflicts import Situation
from library.config.dataset import find_datasets
from library.config.findings import Findings
from library.config.idle import NEVER_USED, idle_settings
from library.config.presets import overlay
from library.config.schema import Config
from library.config.sd_scripts.command_text import TrainingCommand, read_command, variables
from library.config.sd_scripts.gui_files import (
    Converted,
    from_easy_training,
    from_kohya_preset,
    is_easy_training,
    is_kohya_preset,
)
from library.config.settings import Setting, choose_settings
from library.config.spellings import FLAGS
from library.config.toml_files import flattened, read_settings, read_text
from library.core.documents import DocumentError, parse_json, parse_toml
from library.core.errors import UserError

RAN = ".toml"
"""Ending of configs that sd-scripts itself reads."""

ARGUMENTS = ("network_args", "optimizer_args", "lr_scheduler_args")
"""Options that hold a plugin's own."""


@dataclass(frozen=True)
class Conversion:
    """A config of sd-scripts as one of ours."""

    config: Config
    """Without what no run of this project uses."""
    situation: Situation
    launcher: list[str]
    """What a command line began with: `accelerate launch` and its options."""
    renamed: list[str]
    """Keys that have another name here."""
    left_out: list[str]
    """What was refused or could not be understood, and is not in `config`."""
    to_mend: list[str]
    """Contradictions in `config`, with which no run can start."""
    told: list[str]
    """What has no effect, and whatever else is to be said."""


@dataclass
class _Read:
    """What a source holds."""

    layers: list[list[Setting]] = field(default_factory=list)
    """The later the more they count."""
    launcher: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


def convert_source(source: str) -> Conversion:
    """Read a file (TOML, JSON, or text with a command line) or a command line itself.

    Raises:
        UserError: it is none of these, or trains what is not trained here.
    """
    findings = Findings()
    if not _is_file(source) and (not source.strip() or (len(source.split()) == 1 and not source.startswith("--"))):
        raise UserError(
            f"'{source}': no such file. Give a config (.toml, .json), a text file with a command line, or the command line itself in quotes."
        )
    read = _read_path(Path(source), findings) if _is_file(source) else _read_text(source, findings)
    return _converted(read, findings)


def _converted(read: _Read, findings: Findings) -> Conversion:
    chosen = overlay([choose_settings(layer, findings) for layer in read.layers])
    if extends := chosen.pop("extends", None):
        read.told.append(f"{extends.source}: extends is left out: presets are laid over a config of this project.")
    values = typed_values(chosen, findings)
    values |= {key: _plain(values[key]) for key in ARGUMENTS if key in values}
    implied = implied_values(values)
    values |= dict.fromkeys(implied, True)
    config = held(values)
    where = chosen["datasets"].source if "datasets" in chosen else ""
    situation = Situation(config, find_datasets(config, findings, where, elsewhere=True))
    conflicts = [conflict for check in (*DATA_CHECKS, *TRAINING_CHECKS) for conflict in check(situation)]
    findings.warnings += [conflict.message for conflict in conflicts if not conflict.fatal]
    unseen = not situation.datasets
    findings.warnings += [
        conflict.message
        for conflict in idle_settings(situation, chosen.keys())
        if not (unseen and "prior_loss_weight" in conflict.keys)
    ]
    renamed = [text for layer in read.layers for setting in layer if (text := _renamed(setting))]
    renamed += [f"{key} = true follows from {by}" for key, by in implied.items()]
    return Conversion(
        held({key: value for key, value in values.items() if key not in NEVER_USED}),
        situation,
        read.launcher,
        list(dict.fromkeys(renamed)),
        [*findings.mistakes, *findings.unknown],
        [conflict.message for conflict in conflicts if conflict.fatal],
        [*read.told, *findings.warnings, *findings.notices],
    )


def _renamed(setting: Setting) -> str:
    declared = by_any_name(catalog()).get(setting.key)
    if declared is not None and declared.key != setting.key and setting.value not in ("", None):
        return f"{setting.key} is {declared.key}"
    if setting.key in FLAGS and str(setting.value).lower() in ("true", "1", "yes"):
        key, value = FLAGS[setting.key]
        return f'{setting.key} is {key} = "{value}"'
    return ""


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a plugin with numbers and truth values for texts that spell them."""
    return {name: _spelled(value) if isinstance(value, str) else value for name, value in arguments.items()}


def _spelled(text: str) -> bool | int | float | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if str(number) not in ("nan", "inf", "-inf") else text
    return text


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except (OSError, ValueError):
        return False


def _read_path(path: Path, findings: Findings) -> _Read:
    kind = path.suffix.lower()
    text = read_text(path)
    if kind not in (".toml", ".json"):
        return _read_text(text, findings)
    try:
        content = parse_toml(text) if kind == ".toml" else parse_json(text)
    except DocumentError as error:
        raise UserError(f"{path}: not valid {kind[1:].upper()}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a table of options.")
    if kind == ".json":
        found = from_kohya_preset(content) if is_kohya_preset(content) else Converted(content)
    elif is_easy_training(content):
        found = from_easy_training(content)
    else:
        return _Read([read_settings(path)])
    settings = [Setting(key, value, path.name) for _, key, value in flattened(found.settings)]
    read = _Read([settings], told=found.told)
    if found.options:
        _add_options(found.options, read, findings)
    return read


def _read_text(text: str, findings: Findings) -> _Read:
    command = read_command(text)
    read = _Read(launcher=command.launcher)
    _tell_of_command(command, read)
    _add_options(command.options, read, findings)
    return read


def _tell_of_command(command: TrainingCommand, read: _Read) -> None:
    if command.script == "sdxl_train_network":
        read.told.append("sdxl_train_network.py is train_network.py here: the family is recognised from the weights.")
    if names := variables(command.options):
        read.told.append(f"{', '.join(names)}: variables of a shell stand in the preset as they are; fill them in.")


def _add_options(options: Sequence[str], read: _Read, findings: Findings) -> None:
    command = read_command_line(options, findings)
    if command.config is not None:
        path = Path(command.config if command.config.endswith(RAN) else command.config + RAN)
        if path.is_file():
            below = _read_path(path, findings)
            read.layers += below.layers
            read.told += below.told
        else:
            read.told.append(
                f"--config_file {command.config}: this file is not here, so what it holds is missing in the preset."
            )
    read.layers.append([replace(setting, source=SOURCE) for setting in command.settings])


def missing_parts(config: Config) -> list[str]:
    """What a run needs that the config does not name."""
    data = config.data
    missing = [] if config.model.pretrained_model_name_or_path else ["pretrained_model_name_or_path (the base model)"]
    if not (data.train_data_dir or data.dataset_config or data.in_json or data.datasets):
        missing.append("train_data_dir (the pictures)")
    return missing
