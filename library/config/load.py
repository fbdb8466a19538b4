"""Reading the configuration: presets, the user's file and the command line, checked as a whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from library.config.build import held, implied_values, typed_values
from library.config.catalog import catalog
from library.config.check_data import DATA_CHECKS, names_trigger
from library.config.check_places import PLACE_CHECKS
from library.config.check_training import TRAINING_CHECKS
from library.config.command_line import CommandLine, read_command_line
from library.config.conflicts import Conflict, Situation
from library.config.dataset import find_datasets
from library.config.findings import Findings
from library.config.help_text import explanation, help_text
from library.config.idle import idle_settings
from library.config.presets import DEMO, Layer, demo_notice, is_demo, overlay, read_layers
from library.config.schema import Config
from library.config.settings import Setting, choose_settings
from library.core.errors import raise_all
from library.core.terminal import harmless

DEFAULT = "default"


@dataclass(frozen=True)
class LoadedConfig:
    """A checked configuration."""

    config: Config
    sources: Mapping[str, str]
    """Option -> where its value comes from: "presets/character.toml:12", "command line", "default"."""
    warnings: list[str]
    """To be shown at the start and at the end: unknown keys that were let pass, settings without effect."""
    notices: list[str]
    """What was decided for the user, to be shown at the start."""
    files: list[Path]
    """The files read, the later the more they count."""


def load_config(argv: Sequence[str]) -> LoadedConfig:
    """The configuration that the command line asks for.

    `--help` and `--explain` print and end the process.

    Raises:
        UserErrors: everything that has to be mended, at once.
    """
    findings = Findings()
    command = read_command_line(argv, findings)
    if command.help is not None:
        print(help_text(command.help))
        raise SystemExit(0)
    layers, chosen = _chosen(command, findings)
    values = typed_values(chosen, findings)
    implied = implied_values(values)
    sources = {key: _source(key, chosen, implied) for key in catalog()}
    config = held({**values, **dict.fromkeys(implied, True)})
    situation = Situation(config, find_datasets(config, findings, sources["datasets"]))
    situation = _without_idle_prior(situation, chosen.get("prior_prediction_rate"), sources, findings)
    _check(situation, sources, chosen.keys() - values.keys(), findings)
    written = {key for key, setting in chosen.items() if not setting.from_preset}
    findings.warnings += [_with_sources(idle, sources) for idle in idle_settings(situation, written)]
    _tell_unknown(chosen, findings)
    raise_all(findings.mistakes)
    if command.explain is not None:
        print(harmless(explanation(situation.config, sources, findings, command.explain)))
        raise SystemExit(0)
    return LoadedConfig(
        situation.config, sources, findings.warnings, findings.notices, [layer.file for layer in layers]
    )


def _chosen(command: CommandLine, findings: Findings) -> tuple[list[Layer], dict[str, Setting]]:
    """The layers, and the settings that count: files, then presets named on the command line, then its options."""
    asked = [("--config", command.config)] if command.config is not None else []
    asked += [("--extends", name) for name in command.extends]
    layers = [layer for key, name in asked for layer in read_layers(name, Path(), key, findings)]
    typed = choose_settings(command.settings, findings)
    chosen = overlay([*(layer.settings for layer in layers), typed])
    if not is_demo(chosen) or findings.mistakes:
        return layers, chosen
    layers += read_layers(str(DEMO), Path(), "demo", findings)
    if layers:
        findings.notices.append(demo_notice(layers[-1], sorted(layers[-1].settings.keys() & typed.keys())))
    return layers, overlay([*(layer.settings for layer in layers), typed])


def _source(key: str, chosen: Mapping[str, Setting], implied: Mapping[str, str]) -> str:
    if key in implied:
        return f"follows from {implied[key]}"
    return chosen[key].source if key in chosen else DEFAULT


def _without_idle_prior(
    situation: Situation, setting: Setting | None, sources: dict[str, str], findings: Findings
) -> Situation:
    """A recipe's prior prediction is left out where no trigger word is named, so that the recipe serves as it is.

    Where the user asked for it, a missing trigger word is a mistake instead.
    """
    config = situation.config
    if config.loss.prior_prediction_rate == 0 or setting is None or not setting.from_preset or names_trigger(situation):
        return situation
    findings.warnings.append(
        f"prior_prediction_rate = {config.loss.prior_prediction_rate:g} ({setting.source}) is left out, as it needs "
        "trigger_word: without it the LoRA also changes pictures that do not ask for it. Set trigger_word."
    )
    sources["prior_prediction_rate"] = f"left out for want of trigger_word ({setting.source})"
    return replace(situation, config=replace(config, loss=replace(config.loss, prior_prediction_rate=0.0)))


def _check(situation: Situation, sources: Mapping[str, str], failed: set[str], findings: Findings) -> None:
    """Contradictions within the configuration; those about values that were not understood are left out."""
    for check in (*PLACE_CHECKS, *DATA_CHECKS, *TRAINING_CHECKS):
        for conflict in check(situation):
            if failed.isdisjoint(conflict.keys):
                messages = findings.mistakes if conflict.fatal else findings.warnings
                messages.append(_with_sources(conflict, sources))


def _with_sources(conflict: Conflict, sources: Mapping[str, str]) -> str:
    places = [f"{key}: {sources[key]}" for key in conflict.keys if sources[key] != DEFAULT]
    return f"{conflict.message} [{'; '.join(places)}]" if places else conflict.message


def _tell_unknown(chosen: Mapping[str, Setting], findings: Findings) -> None:
    """Unknown keys are mistakes, unless the user asked to go on with a warning."""
    if "unknown_keys" in chosen and chosen["unknown_keys"].value == "warn":
        findings.warnings += [f"{message} It was ignored." for message in findings.unknown]
        return
    findings.mistakes += findings.unknown
