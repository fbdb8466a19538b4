"""Several groups of options read from one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from typing import Any, get_type_hints

from library.config.options import parse_options
from library.core.errors import UserError


def parse_together(groups: Sequence[type], given: Mapping[str, Any], where: str) -> list[Any]:
    """An instance of each dataclass in `groups`, from one table that holds the options of all.

    Raises:
        UserErrors: unknown names, values that do not fit; all at once.
    """
    parsed: Any = parse_options(joined(groups), given, where)
    return [group(**{item.name: getattr(parsed, item.name) for item in fields(group)}) for group in groups]


def joined(groups: Sequence[type]) -> type:
    """One frozen dataclass with the fields of all."""
    declared = []
    for group in groups:
        types = get_type_hints(group)
        for item in fields(group):
            default: Any = {"default": item.default, "default_factory": item.default_factory}
            declared.append((item.name, types[item.name], field(metadata=item.metadata, kw_only=True, **default)))
    names = [name for name, _, _ in declared]
    assert len(names) == len(set(names)), f"an option is declared twice: {names}"
    return make_dataclass("Options", declared, frozen=True)


def refuse_dropout(
    network_module: str, network_dropout: float, because: str = "has no values between two matrices"
) -> None:
    """For networks without values between two matrices, which is what `network_dropout` drops, or with better use for them.

    Args:
        because: completes "which ...".

    Raises:
        UserError: it is set.
    """
    if network_dropout:
        raise UserError(f"network_dropout has no meaning for {network_module}, which {because}: leave it out.")
