"""One key that one source sets, as it was written, and the option it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, time
from typing import Any

from library.config.catalog import by_any_name, catalog, declarations
from library.config.findings import Findings
from library.config.schema.data import SubsetConfig
from library.config.spellings import FLAGS, GUI_EXTRAS, IGNORED, ONLY_VALUE, REFUSED
from library.config.values import convert, is_unset, shown
from library.core.errors import did_you_mean


@dataclass(frozen=True)
class Setting:
    """A key and its value."""

    key: str
    value: Any
    source: str
    """Where it stands, for the user: "presets/character.toml:12" or "command line"."""
    from_preset: bool = False
    """It stands in one of the project's own presets, whose paths start at the project's root."""


def choose_settings(layer: Iterable[Setting], findings: Findings) -> dict[str, Setting]:
    """Option -> setting, of one file or the command line. Settings that stand for no option are reported."""
    chosen: dict[str, Setting] = {}
    for written in layer:
        setting = _canonical(written, findings)
        if setting is None:
            continue
        other = chosen.setdefault(setting.key, setting)
        if other is not setting and other.value != setting.value:
            also = f" (as '{written.key}')" if written.key != setting.key else ""
            findings.mistakes.append(
                f"{written.source}: '{setting.key}' is set again{also}, to {shown(setting.value)}; "
                f"it is {shown(other.value)} at {other.source}. Keep one."
            )
    return chosen


def _canonical(setting: Setting, findings: Findings) -> Setting | None:
    """The setting under its option's name; None where it sets no option."""
    name, where = setting.key, setting.source
    declared = by_any_name(catalog()).get(name)
    if _holds_date(setting.value):
        findings.mistakes.append(f"{where}: {name}: dates and times are not understood; write it in quotes.")
        return None
    if declared is not None:
        if name != declared.key and is_unset(setting.value):
            return None
        return replace(setting, key=declared.key)
    if name in FLAGS:
        return _from_flag(setting, findings)
    _report_foreign(setting, findings)
    return None


def _from_flag(setting: Setting, findings: Findings) -> Setting | None:
    try:
        on = convert(setting.value, bool)
    except ValueError as error:
        findings.mistakes.append(f"{setting.source}: {setting.key} = {shown(setting.value)}: expected {error}.")
        return None
    key, value = FLAGS[setting.key]
    return replace(setting, key=key, value=value) if on else None


def _report_foreign(setting: Setting, findings: Findings) -> None:
    name, value, where = setting.key, setting.value, setting.source
    in_use = bool(value) and str(value).lower() not in ("false", "no", "none")
    if name in GUI_EXTRAS:
        findings.warnings.append(
            f"{where}: '{name}' is written by kohya's GUI and read by no trainer; it has no effect."
        )
    elif name in IGNORED:
        if in_use:
            findings.warnings.append(f"{where}: '{name}' has no effect: {IGNORED[name]}.")
    elif name in REFUSED:
        if in_use:
            findings.mistakes.append(f"{where}: '{name}' is not offered: {REFUSED[name]}.")
    elif name in ONLY_VALUE:
        if in_use and value != ONLY_VALUE[name]:
            findings.mistakes.append(f"{where}: {name} = {shown(value)}: only {shown(ONLY_VALUE[name])} is offered.")
    else:
        findings.unknown.append(f"{where}: {_unknown(name, value)}")


def _unknown(name: str, value: Any) -> str:
    if name in declarations(SubsetConfig):
        return f"'{name}' belongs in the dataset tables: [general], [[datasets]] or [[datasets.subsets]]."
    if isinstance(value, dict):
        return f"unknown table '{name}'. Sections are one level deep.{did_you_mean(name, catalog())}"
    return f"unknown key '{name}'.{did_you_mean(name, [*by_any_name(catalog()), *FLAGS])}"


def _holds_date(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_date, value.values()))
    if isinstance(value, list):
        return any(map(_holds_date, value))
    return isinstance(value, (date, time))
