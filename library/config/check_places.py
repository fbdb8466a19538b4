"""Checks of what the configuration names: models, data, files, folders, installed packages."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from library.config.conflicts import Conflict, Situation
from library.config.schema import Config
from library.core.pickles import PICKLES, is_pickle, refusal

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
WEIGHTS = (".safetensors", *PICKLES)
PROMPT_FILES = (".txt", ".toml", ".json")
FORBIDDEN_IN_NAMES = set('<>:"/\\|?*') | {chr(code) for code in (*range(32), *range(127, 160))}
LONGEST_NAME = 180
"""Bytes; file systems allow 255, and numbers, endings and time stamps are put behind a name."""


def model_and_data(situation: Situation) -> Iterator[Conflict]:
    """One without the other; with neither, the embedded demo is used, and there is nothing to complain of."""
    config = situation.config
    model, data = config.model.pretrained_model_name_or_path, config.data
    sources = {
        "train_data_dir": data.train_data_dir,
        "dataset_config": data.dataset_config,
        "in_json": data.in_json,
        "datasets": data.datasets,
    }
    given = tuple(key for key, value in sources.items() if value)
    if given and not model:
        yield Conflict(
            ("pretrained_model_name_or_path", *given),
            "pretrained_model_name_or_path is missing: training data are named, but no base model.",
        )
    if model and not given:
        yield Conflict(
            ("train_data_dir", "pretrained_model_name_or_path"),
            "train_data_dir is missing: a base model is named, but no training data "
            "(dataset_config, in_json or [[datasets]] tables would do too).",
        )
    if len({"datasets", "dataset_config"} & set(given)) == 2:
        yield Conflict(("datasets", "dataset_config"), "datasets are given both here and in dataset_config: keep one.")


def models(situation: Situation) -> Iterator[Conflict]:
    """Models that are neither files or folders here nor names on the hub."""
    config = situation.config
    for key in ("pretrained_model_name_or_path", "vae", "tokenizer"):
        name = getattr(config.model, key)
        if name and not Path(name).exists() and (why := _no_hub_name(name)):
            yield Conflict(
                (key,), f'{key} = "{name}": no such file or folder (looked for it at {Path(name).resolve()}){why}.'
            )


def files(situation: Situation) -> Iterator[Conflict]:
    """Files to read that are not there, and prompts in a file of another kind."""
    config = situation.config
    named: dict[str, list[str | None]] = {
        "network_weights": [config.network.network_weights],
        "base_weights": [*config.network.base_weights],
        "sample_prompts": [config.sampling.sample_prompts],
    }
    for key, names in named.items():
        for name in names:
            if name and not Path(name).is_file():
                yield Conflict((key,), f'{key} = "{name}": no such file (looked for it at {Path(name).resolve()}).')
    thumbnail = config.saving.metadata_thumbnail
    if thumbnail and not thumbnail.startswith("data:") and not Path(thumbnail).expanduser().is_file():
        yield Conflict(("metadata_thumbnail",), f'metadata_thumbnail = "{thumbnail}": no such file.')
    prompts = config.sampling.sample_prompts
    if prompts and not prompts.lower().endswith(PROMPT_FILES):
        yield Conflict(("sample_prompts",), f'sample_prompts = "{prompts}": expected a .txt, .toml or .json file.')


def pickled(config: Config) -> dict[str, list[str]]:
    """Option -> the pickles that it names."""
    named: dict[str, Sequence[str | None]] = {
        "pretrained_model_name_or_path": [config.model.pretrained_model_name_or_path],
        "vae": [config.model.vae],
        "network_weights": [config.network.network_weights],
        "base_weights": config.network.base_weights,
    }
    found = {key: [name for name in names if name and is_pickle(name)] for key, names in named.items()}
    return {key: names for key, names in found.items() if names}


def pickles(situation: Situation) -> Iterator[Conflict]:
    """Files that could run a program, where the user has not allowed to read them."""
    if not situation.config.model.allow_pickle:
        for key, names in pickled(situation.config).items():
            yield from (Conflict((key,), f"{key}: {refusal(name)}") for name in names if Path(name).is_file())


def folders(situation: Situation) -> Iterator[Conflict]:
    """Folders to read that are not there."""
    config = situation.config
    masks, resume = config.images.conditioning_data_dir, config.saving.resume
    if masks and not Path(masks).is_dir():
        yield Conflict(("conditioning_data_dir",), f'conditioning_data_dir = "{masks}": no such folder.')
    if resume and resume != "latest" and not Path(resume).is_dir():
        yield Conflict(
            ("resume",),
            f'resume = "{resume}": no such state folder (looked for it at {Path(resume).resolve()}). '
            'State folders end in -state; "latest" takes the newest in output_dir.',
        )


def outputs(situation: Situation) -> Iterator[Conflict]:
    """Names that no file can have or that lead out of their folder, and folders to write to that are files."""
    config = situation.config
    yield from _unfit_name("output_name", config.saving.output_name, config.saving.output_name, "output_dir")
    tracker, prefix = config.logging.log_tracker_name, config.logging.log_prefix or ""
    yield from _unfit_name("log_tracker_name", tracker, tracker, "logging_dir")
    yield from _unfit_name("log_prefix", prefix, f"{prefix}20260101000000", "logging_dir")
    for key, folder in (
        ("output_dir", config.saving.output_dir),
        ("logging_dir", config.logging.logging_dir),
        ("cache_dir", config.data.cache_dir),
    ):
        if folder and Path(folder).exists() and not Path(folder).is_dir():
            yield Conflict((key,), f'{key} = "{folder}": this is a file, not a folder.')


def packages(situation: Situation) -> Iterator[Conflict]:
    """Options that need a package which is not installed."""
    config = situation.config
    if config.model.attention == "xformers" and importlib.util.find_spec("xformers") is None:
        yield Conflict(
            ("attention",),
            'attention = "xformers": xformers is not installed. Install it (pip install xformers), '
            'or take attention = "sdpa", which is as fast on most cards.',
        )
    for key, name in (
        ("network_module", config.network.network_module),
        ("optimizer_type", config.optimizer.optimizer_type),
        ("lr_scheduler", config.schedule.lr_scheduler),
    ):
        package = name.partition(".")[0]
        if "." in name and not (all(map(str.isidentifier, name.split("."))) and _is_installed(package)):
            yield Conflict((key,), f'{key} = "{name}": no package "{package}" is installed in this environment.')


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # __main__ and its like, which were not imported from anywhere
        return False


def _unfit_name(key: str, value: str, name: str, folder: str) -> Iterator[Conflict]:
    """A value whose file or folder `name` cannot be made in the folder of that option."""
    wrong = sorted(set(name) & FORBIDDEN_IN_NAMES)
    if not name.strip() or name.endswith((".", " ")):
        yield Conflict((key,), f'{key} = "{value}": expected a file name without its ending.')
    elif wrong:
        listed = " ".join(repr(character)[1:-1] for character in wrong)
        yield Conflict((key,), f'{key} = "{value}": a file name cannot hold {listed}; folders go in {folder}.')
    elif len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        yield Conflict((key,), f"{key} is longer than {LONGEST_NAME} bytes: choose a shorter name.")


def _no_hub_name(name: str) -> str:
    """Why the name cannot be one on the hub either, '' where it can."""
    if Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name or name.lower().endswith(WEIGHTS):
        return "; it does not read as a hub name either"
    return "" if HUB_NAME.fullmatch(name) else "; a hub name would be owner/name"


PLACE_CHECKS: tuple[Callable[[Situation], Iterable[Conflict]], ...] = (
    model_and_data,
    models,
    files,
    pickles,
    folders,
    outputs,
    packages,
)
