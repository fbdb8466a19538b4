"""One key that one source sets, as it was written, and the option it stands for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, time
from typing import Any

from library.config.catalog import by_any_name, catalog, declarations
from library.config.findings import Findings
from library.config.schema.data import SubsetConfig
from library.config.spellings import (
    EMPTY_IS_UNSET,
    FLAGS,
    GUI_EXTRAS,
    NEEDLESS,
    OF_OTHER_FAMILIES,
    ONLY_VALUE,
    REFUSED,
    STAND_INS,
    STRONGER_ALIASES,
    WITHOUT_EFFECT,
)
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
    names: dict[str, str] = {}
    for written in layer:
        setting = _canonical(written, findings)
        if setting is None:
            continue
        other = chosen.get(setting.key, setting)
        if other is not setting and other.value != setting.value:
            stronger = _stronger(names[setting.key], written.key)
            if stronger is None:
                findings.mistakes.append(_set_again(written, setting, other))
            else:
                weaker = names[setting.key] if stronger == written.key else written.key
                findings.warnings.append(f"{written.source}: '{weaker}' has no effect beside '{stronger}'.")
            if stronger != written.key:
                continue
        chosen[setting.key], names[setting.key] = setting, written.key
    return chosen


def _stronger(*names: str) -> str | None:
    """Which of two names for one option, set to different values in one place, sd-scripts goes by; None where one must go."""
    ranked = (*STRONGER_ALIASES, *(flag for flag, (key, _) in FLAGS.items() if key == "attention"))
    known = sorted((name for name in names if name in ranked), key=ranked.index)
    clear = len(known) == len(names) or any(name in STRONGER_ALIASES for name in known)
    return known[0] if clear else None


def _set_again(written: Setting, setting: Setting, other: Setting) -> str:
    also = f" (as '{written.key}')" if written.key != setting.key else ""
    return (
        f"{written.source}: '{setting.key}' is set again{also}, to {shown(setting.value)}; "
        f"it is {shown(other.value)} at {other.source}. Keep one."
    )


def _canonical(setting: Setting, findings: Findings) -> Setting | None:
    """The setting under its option's name; None where it sets no option."""
    name, where = setting.key, setting.source
    declared = by_any_name(catalog()).get(name)
    if _holds_date(setting.value):
        findings.mistakes.append(f"{where}: {name}: dates and times are not understood; write it in quotes.")
        return None
    if declared is not None:
        if is_unset(setting.value) and (name != declared.key or name in EMPTY_IS_UNSET):
            return None
        return _stood_in(replace(setting, key=declared.key), findings)
    if name in FLAGS:
        return _from_flag(setting, findings)
    _report_foreign(_stood_in(setting, findings), findings)
    return None


def _stood_in(setting: Setting, findings: Findings) -> Setting:
    """The setting, with the value that stands in for its own where there is one."""
    stand_ins = STAND_INS.get(setting.key, {})
    if not isinstance(setting.value, str) or setting.value not in stand_ins:
        return setting
    value, why = stand_ins[setting.value]
    findings.warnings.append(f"{setting.source}: {setting.key} = {shown(setting.value)} is {shown(value)} here: {why}.")
    return replace(setting, value=value)


def _from_flag(setting: Setting, findings: Findings) -> Setting | None:
    try:
        on = convert(setting.value, bool)
    except ValueError as error:
        findings.mistakes.append(f"{setting.source}: {setting.key} = {shown(setting.value)}: expected {error}.")
        return None
    key, value = FLAGS[setting.key]
    if on and value == "xformers" and importlib.util.find_spec("xformers") is None:
        findings.warnings.append(
            f"{setting.source}: xformers is not installed; PyTorch's own attention (sdpa) is used, which gives the same result."
        )
        value = "sdpa"
    return replace(setting, key=key, value=value) if on else None


def _report_foreign(setting: Setting, findings: Findings) -> None:
    name, value, where = setting.key, setting.value, setting.source
    in_use = bool(value) and str(value).lower() not in ("false", "no", "none")
    if name in GUI_EXTRAS:
        if in_use:
            findings.warnings.append(
                f"{where}: '{name}' is written by kohya's GUI and read by no trainer; it has no effect: {GUI_EXTRAS[name]}."
            )
    elif name in NEEDLESS:
        if in_use:
            findings.warnings.append(f"{where}: '{name}' has no effect: {NEEDLESS[name]}.")
    elif name in REFUSED:
        if in_use and str(value) != str(WITHOUT_EFFECT.get(name)):
            findings.mistakes.append(f"{where}: '{name}' is not offered: {REFUSED[name]}.")
    elif name in OF_OTHER_FAMILIES:
        if in_use:
            findings.mistakes.append(
                f"{where}: '{name}' is for other families of models: SD 1.x, SD 2.x and SDXL are trained."
            )
    elif name in ONLY_VALUE:
        only, why = ONLY_VALUE[name]
        if in_use and value != only:
            findings.mistakes.append(f"{where}: {name} = {shown(value)}: only {shown(only)} is offered: {why}.")
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
