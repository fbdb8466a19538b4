"""Options of plugins: network_args, optimizer_args and the like are checked against the plugin's own dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar, get_type_hints

from library.config.field_docs import field_docs
from library.config.values import convert_option, literal_value, shown, type_name
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
    declared = {name: field for field in fields(options_type) for name in _names(field)}  # type: ignore[arg-type]
    annotations = get_type_hints(options_type)
    found: dict[str, Any] = {}
    mistakes = [_unknown(name, declared, where) for name in given if name not in declared]
    for name, value in given.items():
        field = declared.get(name)
        if field is None:
            continue
        if field.name in found:
            mistakes.append(f"{where}: '{field.name}' is given twice, also as '{name}'. Keep one.")
            continue
        try:
            found[field.name] = convert_option(value, annotations[field.name], field.metadata)
        except ValueError as error:
            found[field.name] = None
            mistakes.append(f"{where}: {name} = {shown(value)}: expected {error}.")
    missing = [field.name for field in declared.values() if _is_required(field) and field.name not in found]
    mistakes += [f"{where}: '{name}' is missing and has no default." for name in dict.fromkeys(missing)]
    raise_all(mistakes)
    return options_type(**found)


def describe_options(options_type: type) -> str:
    """The options of a plugin, one a line: name, type, default, and the doc string beneath the field."""
    docs, annotations = field_docs(options_type), get_type_hints(options_type)
    lines = []
    for field in fields(options_type):
        default = "required" if _is_required(field) else f"default {shown(_default(field))}"
        doc = docs.get(field.name, "")
        lines.append(f"{field.name} ({type_name(annotations[field.name])}, {default}){': ' if doc else ''}{doc}")
    return "\n".join(lines)


def _names(field: Field[Any]) -> tuple[str, ...]:
    return (field.name, *field.metadata.get("aliases", ()))


def _unknown(name: str, declared: Mapping[str, Field[Any]], where: str) -> str:
    known = ", ".join(dict.fromkeys(field.name for field in declared.values())) or "none"
    return f"{where}: unknown option '{name}'.{did_you_mean(name, declared)} Known: {known}."


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
