"""Arguments for a class or function that declares no options: checked against the parameters of its signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import field, make_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from library.config.options import literal_value, parse_options

VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def parse_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], where: str, supplied: Collection[str]
) -> dict[str, Any]:
    """`given`, with each value converted to the type of the parameter it names.

    Args:
        function: what will be called.
        given: name -> value, typed as in TOML or as text.
        where: the key that holds them, for messages ("optimizer_args").
        supplied: parameters that the caller fills in itself.

    Raises:
        UserErrors: unknown names, values of another type, parameters without a default that are missing.
    """
    parameters, hints = inspect.signature(function).parameters, _hints(function)
    named = [item for item in parameters.values() if item.name not in supplied and item.kind not in VARIADIC]
    names = {parameter.name for parameter in named}
    free = {name for name in given if name not in names} if _takes_any(parameters) else set()
    options_type = make_dataclass(
        "Arguments", [_field(parameter, hints.get(parameter.name)) for parameter in named], kw_only=True
    )
    options: Any = parse_options(
        options_type, {name: value for name, value in given.items() if name not in free}, where
    )
    return {name: literal_value(value) if name in free else getattr(options, name) for name, value in given.items()}


def _takes_any(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[str, Any, Any]:
    hint = hint if _is_checkable(hint) else _type_of_default(parameter.default)
    if parameter.default is parameter.empty:
        return parameter.name, hint, field()
    return parameter.name, hint, field(default_factory=lambda: parameter.default)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations; none where they name what cannot be found at run time."""
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except NameError:
        return {}


def _is_checkable(hint: Any) -> bool:
    """Whether the configuration's rules for values know the type."""
    if get_origin(hint) in (Union, UnionType):
        return all(_is_checkable(member) for member in get_args(hint))
    return hint in (bool, int, float, str, NoneType) or get_origin(hint) is Literal


def _type_of_default(default: Any) -> Any:
    """The type that a default value suggests; anything where it tells nothing."""
    if isinstance(default, (bool, float, str)):
        return type(default)
    if isinstance(default, int):
        return int | float  # many write weight_decay=0 and mean a number
    if isinstance(default, (tuple, list)) and default and all(isinstance(item, (int, float)) for item in default):
        return tuple[int | float, ...] if isinstance(default, tuple) else list[int | float]
    return Any
