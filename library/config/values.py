"""From a value as it was written (TOML, command line, "key=value") to the type that an option declares.

One set of rules serves the configuration and the options of every plugin: whole numbers stand where numbers are meant,
text that spells a number, a truth value or a list is read as one, and empty text or "None" unsets what may be unset.
Every function here raises ValueError with what is allowed, worded to stand after "expected ".
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

LONGEST_LITERAL = 1000
"""Characters; Python's reader of literals can exhaust the stack, or make numbers that cannot be printed, from longer text."""

LARGEST = 2**63 - 1
"""Whole number: that of TOML, and of everything that is computed with it."""


def convert(value: Any, annotation: Any) -> Any:
    """`value` as the annotated type.

    Known annotations: bool, int, float, str, Any, Literal, list, tuple, dict, and unions of them.

    Raises:
        ValueError: the value does not fit; says what is allowed.
    """
    origin = get_origin(annotation)
    if annotation is Any:
        return literal_value(value)
    if origin in (Union, UnionType):
        return _to_member(value, get_args(annotation))
    if origin is Literal:
        return _to_choice(value, get_args(annotation))
    converter = _CONVERTERS.get(origin or annotation)
    if converter is None:
        raise TypeError(f"options of type {annotation} are not supported")
    return converter(value, get_args(annotation))


def convert_option(value: Any, annotation: Any, metadata: Mapping[str, Any]) -> Any:
    """`value` for a field declared with `library.config.schema.fields.option`, or a plain dataclass field.

    Raises:
        ValueError: it does not fit the type or the range; says what is allowed.
    """
    if is_optional(annotation) and is_unset(value):
        return None
    parse = metadata.get("parse")
    try:
        parsed = parse(value) if parse else value
    except (TypeError, OverflowError) as error:  # it met a kind of value, or a number, that it was not written for
        raise ValueError(type_name(annotation)) from error
    converted = convert(parsed, annotation)
    if metadata.get("zero_is_unset") and converted == 0:
        return None
    check_range(converted, metadata.get("minimum"), metadata.get("maximum"))
    return converted


def check_range(value: Any, minimum: float | None, maximum: float | None) -> None:
    """Compare a number, or each number of a list, with its limits; None passes.

    Raises:
        ValueError: outside; says the limits.
    """
    numbers = [item for item in (value if isinstance(value, (list, tuple)) else [value]) if _is_number(item)]
    low = -math.inf if minimum is None else minimum
    high = math.inf if maximum is None else maximum
    if all(low <= number <= high for number in numbers):
        return
    if maximum is None:
        raise ValueError(f"at least {minimum:g}")
    raise ValueError(f"at most {maximum:g}" if minimum is None else f"a number from {minimum:g} to {maximum:g}")


def is_optional(annotation: Any) -> bool:
    """Whether None is among the annotated types."""
    return NoneType in get_args(annotation)


def is_unset(value: Any) -> bool:
    """None, empty text, or the word None: TOML and the command line know no other way to unset an option."""
    return value is None or (isinstance(value, str) and value.strip() in ("", "None"))


def literal_value(value: Any) -> Any:
    """Text read as the Python or TOML literal it spells ("0.9,0.99", "True", "none"), else as it is."""
    if not isinstance(value, str):
        return value
    named = {"true": True, "false": False, "none": None}
    if value.strip().lower() in named:
        return named[value.strip().lower()]
    if len(value) > LONGEST_LITERAL:
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return value


def type_name(annotation: Any) -> str:
    """The type in plain words: "whole number", "true or false", "list of numbers"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_name(member) for member in arguments if member is not NoneType))
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (list, tuple) and arguments and arguments[0] is not Any:
        return f"list of {type_name(arguments[0])}s".replace("texts", "text")
    plain = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "table", Any: "anything"}
    return plain.get(origin or annotation, "list")


def shown(value: Any) -> str:
    """A value as it would be written in TOML, shortened."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = f'"{value}"'
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _to_bool(value: Any, arguments: tuple[Any, ...]) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, (bool, int, str)) and word in TRUE + FALSE:
        return word in TRUE
    raise ValueError("true or false")


def _to_int(value: Any, arguments: tuple[Any, ...]) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        number = _number(value, "a whole number")
        if not number.is_integer():
            raise ValueError("a whole number")
        value = int(number)
    if abs(value) > LARGEST:
        raise ValueError("a whole number of at most 63 bits")
    return value


def _to_float(value: Any, arguments: tuple[Any, ...]) -> float:
    return _number(value, "a number")


def _to_str(value: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(value, str):
        raise ValueError("text in quotes")
    return value


def _to_list(value: Any, arguments: tuple[Any, ...]) -> list[Any]:
    return [_item(item, arguments[0] if arguments else Any, "list") for item in _items(value)]


def _to_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    items = _items(value)
    if not arguments or arguments[-1] is Ellipsis:
        return tuple(_item(item, arguments[0] if arguments else Any, "list") for item in items)
    if len(items) != len(arguments):
        raise ValueError(f"a list of {len(arguments)} values")
    return tuple(_item(item, annotation, "list") for item, annotation in zip(items, arguments, strict=True))


def _to_dict(value: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("a table")
    annotation = arguments[1] if arguments else Any
    if annotation is Any:
        return dict(value)
    return {key: _item(item, annotation, "table") for key, item in value.items()}


_CONVERTERS: dict[Any, Callable[[Any, tuple[Any, ...]], Any]] = {
    bool: _to_bool,
    int: _to_int,
    float: _to_float,
    str: _to_str,
    list: _to_list,
    tuple: _to_tuple,
    dict: _to_dict,
}


def _to_member(value: Any, members: tuple[Any, ...]) -> Any:
    """The first member of a union that the value fits, an exact type match before any conversion, text last."""
    if NoneType in members and is_unset(value):
        return None
    members = tuple(member for member in members if member is not NoneType)
    exact = [member for member in members if member is type(value) and member is not str]
    for member in exact + sorted(members, key=lambda member: member is str):
        try:
            return convert(value, member)
        except ValueError:
            continue
    raise ValueError(" or ".join(dict.fromkeys(_allowed(value, member) for member in members)))


def _allowed(value: Any, annotation: Any) -> str:
    try:
        convert(value, annotation)
    except ValueError as error:
        return str(error)
    return type_name(annotation)


def _to_choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
        if isinstance(value, str) and value == str(choice):
            return choice
    listed = ", ".join(f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices)
    raise ValueError(listed if len(choices) == 1 else f"one of {listed}")


def _number(value: Any, allowed: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float, str)) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(allowed)
    return number


def _items(value: Any) -> list[Any]:
    """The items of a list, of text such as "0.9,0.99" or "[1, 2]", or the one value there is."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if not isinstance(value, str):
        return [value]
    text = value.strip()
    if text[:1] + text[-1:] in ("[]", "()"):
        text = text[1:-1]
    return [part.strip().strip("\"'") for part in text.split(",") if part.strip()]


def _item(value: Any, annotation: Any, container: str) -> Any:
    if annotation is Any:
        return value
    try:
        return convert(value, annotation)
    except ValueError as error:
        raise ValueError(f"a {container} in which each value is {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
