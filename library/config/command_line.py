"""The command line as settings: `--key value`, `--flag`, `--no-flag`, `--list a b c`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin

from library.config.catalog import Declared, by_any_name, catalog
from library.config.findings import Findings
from library.config.settings import Setting
from library.config.spellings import FLAGS

SOURCE = "command line"


@dataclass
class CommandLine:
    """What the user typed."""

    settings: list[Setting] = field(default_factory=list)
    config: str | None = None
    """The configuration file."""
    extends: list[str] = field(default_factory=list)
    """Presets laid over that file."""
    help: str | None = None
    """Asked for with this search text ('' shows everything); None: not asked for."""
    explain: str | None = None
    """As help."""


def read_command_line(argv: Sequence[str], findings: Findings) -> CommandLine:
    """Sort the arguments; those that make no sense are reported. Of an option given twice the last counts."""
    command = CommandLine()
    for name, values in _grouped(argv, findings):
        if name in ("help", "explain"):
            setattr(command, name, " ".join(values))
        elif name in ("config", "config_file"):
            _take_config(command, name, values, findings)
        elif name == "extends":
            command.extends += values
            if not values:
                findings.mistakes.append(f"{SOURCE}: --extends needs at least one preset or file.")
        else:
            value = _value(name, values, findings)
            if value is not None:
                command.settings.append(Setting(_positive(name), value, SOURCE))
    command.settings = list({setting.key: setting for setting in command.settings}.values())
    return command


def _grouped(argv: Sequence[str], findings: Findings) -> list[tuple[str, list[str]]]:
    """Each option's name with the words that follow it."""
    groups: list[tuple[str, list[str]]] = []
    for word in argv:
        if word == "-h":
            groups.append(("help", []))
        elif word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            findings.mistakes.append(f"{SOURCE}: '{word}' stands alone; options are written --key value.")
    return groups


def _take_config(command: CommandLine, name: str, values: list[str], findings: Findings) -> None:
    if len(values) != 1:
        findings.mistakes.append(f"{SOURCE}: --{name} needs one file; lay further presets over it with --extends.")
    elif command.config is not None:
        findings.mistakes.append(f"{SOURCE}: two files, '{command.config}' and '{values[0]}'; use --extends for one.")
    else:
        command.config = values[0]


def _value(name: str, values: list[str], findings: Findings) -> Any:
    """The value of an option, None where it has to be reported instead."""
    if _positive(name) != name:
        return _none_expected(name, values, findings)
    declared = by_any_name(catalog()).get(name)
    if declared is not None and declared.key in ("general", "datasets"):
        findings.mistakes.append(f"{SOURCE}: --{name} is a table: write it in a file.")
        return None
    if _is_flag(name, declared) and not values:
        return True
    several = declared is not None and _takes_several(declared)
    if not values or (len(values) > 1 and declared is not None and not several):
        needed = "at least one value" if several else "one value"
        findings.mistakes.append(f"{SOURCE}: --{name} needs {needed}, found {' '.join(values) or 'none'}.")
        return None
    return values[0] if len(values) == 1 else values


def _none_expected(name: str, values: list[str], findings: Findings) -> bool | None:
    if values:
        findings.mistakes.append(f"{SOURCE}: --{name} takes no value, found {' '.join(values)}.")
        return None
    return False


def _positive(name: str) -> str:
    """The option that `no_...` switches off, else the name itself."""
    declared = by_any_name(catalog())
    if name in declared or not name.startswith("no_"):
        return name
    return name[3:] if name[3:] in FLAGS or _is_bool(declared.get(name[3:])) else name


def _is_flag(name: str, declared: Declared | None) -> bool:
    return declared is None or _is_bool(declared)


def _is_bool(declared: Declared | None) -> bool:
    return declared is not None and (declared.annotation is bool or bool in get_args(declared.annotation))


def _takes_several(declared: Declared) -> bool:
    kinds = (declared.annotation, *get_args(declared.annotation))
    return any(get_origin(kind) in (list, dict) for kind in kinds)
