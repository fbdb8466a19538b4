"""Options of plugins: network_args, optimizer_args and the like are checked against the plugin's own dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from library.config.catalog import Declared, by_any_name, declarations
from library.config.field_docs import field_docs
from library.config.values import literal_value, shown, type_name
from library.core.errors import did_you_mean, raise_all

__all__ = ["describe_options", "literal_value", "parse_options"]

T = TypeVar("T")


def parse_options(options_type: type[T], given: Mapping[str, Any], where: str) -> T:
    """Build a plugin's options from what the user gave it.

    Args:
        options_type: a frozen dataclass; each field's type, and limits declared with
            `library.config.schema.fields.option`, are what is checked. A field without a default must be given.
        given: option name -> value, typed as in TOML or as text ("4", "True", "1e-3", "0.9,0.99", "None").
        where: the key that holds them, for messages ("network_args").

    Raises:
        UserErrors: unknown names, values that do not fit, options that are missing; all of them at once.
    """
    options = by_any_name(declarations(options_type))
    found: dict[str, Any] = {}
    mistakes = []
    for name, value in given.items():
        declared = options.get(name)
        if declared is None:
            mistakes.append(_unknown(name, options, where))
        elif declared.key in found:
            mistakes.append(f"{where}: '{declared.key}' is given twice, also as '{name}'. Keep one.")
        else:
            found[declared.key] = None
            try:
                found[declared.key] = declared.convert(value)
            except ValueError as error:
                mistakes.append(f"{where}: {name} = {shown(value)}: expected {error}.")
    mistakes += [
        f"{where}: '{key}' is missing and has no default."
        for key, declared in declarations(options_type).items()
        if declared.required and key not in found
    ]
    raise_all(mistakes)
    return options_type(**found)


def describe_options(options_type: type) -> str:
    """The options of a plugin, one a line: name, type, default, and the doc string beneath the field."""
    docs = field_docs(options_type)
    lines = []
    for key, declared in declarations(options_type).items():
        default = "required" if declared.required else f"default {shown(declared.default)}"
        doc = f": {docs[key]}" if key in docs else ""
        lines.append(f"{key} ({type_name(declared.annotation)}, {default}){doc}")
    return "\n".join(lines)


def _unknown(name: str, options: Mapping[str, Declared], where: str) -> str:
    known = ", ".join(dict.fromkeys(declared.key for declared in options.values())) or "none"
    return f"{where}: unknown option '{name}'.{did_you_mean(name, options)} Known: {known}."
