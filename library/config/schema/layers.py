"""The tables of `network_layers`: what each may hold, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from library.config.schema.fields import option
from library.config.values import convert_option, shown
from library.core.documents import DocumentError, parse_toml
from library.core.errors import did_you_mean


@dataclass(frozen=True)
class LayerRule:
    """One table: some layers, and what is to be otherwise for them."""

    match: list[str]
    """Texts of one or more words; a layer is meant where every word of one text fits it."""
    dim: int | None = option(None, minimum=0)
    """Rank; 0 leaves the layers out."""
    alpha: float | None = option(None, minimum=0)
    """Alpha; 0 means the rank."""
    lr: float | None = option(None, minimum=0)
    """Learning rate, instead of unet_lr or text_encoder_lr; 0 leaves the layers out."""
    lr_scale: float | None = option(None, minimum=0)
    """Factor of unet_lr or text_encoder_lr; 0 leaves the layers out."""


FIELDS = tuple(field.name for field in fields(LayerRule))


def parse_layers(value: Any) -> list[dict[str, Any]]:
    """Tables of `LayerRule`'s fields, or text that spells such tables in TOML, as on the command line.

    Raises:
        ValueError: everything that is wrong with them, worded to stand after "expected ".
    """
    tables = [table for item in (value if isinstance(value, list) else [value]) for table in _tables(item)]
    read = [_read(table) for table in tables]
    mistakes = [f"network_layers[{number}] {wrong}" for number, (_, found) in enumerate(read) for wrong in found]
    if mistakes:
        raise ValueError(f"tables of {', '.join(FIELDS)}, but {'; '.join(mistakes)}")
    return [table for table, _ in read]


def _tables(item: Any) -> list[Mapping[str, Any]]:
    """A table as it is; those in a text."""
    if isinstance(item, str):
        try:
            item = parse_toml(f"tables = {item}")["tables"]
        except DocumentError:
            item = None
    items = item if isinstance(item, list) else [item]
    if not all(isinstance(each, Mapping) for each in items):
        raise ValueError('tables such as {match = "attn2", dim = 8}')
    return items


def _read(table: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields that are set, each of its type, and what is wrong with the table."""
    types = get_type_hints(LayerRule)
    mistakes = [
        f"has no field '{name}'.{did_you_mean(name, FIELDS)}".removesuffix(".") for name in table if name not in FIELDS
    ]
    read: dict[str, Any] = {}
    for field in fields(LayerRule):
        try:
            read[field.name] = convert_option(table.get(field.name, ""), types[field.name], field.metadata)
        except ValueError as error:
            mistakes.append(f"has {field.name} = {shown(table[field.name])} instead of {error}")
    read = {name: value for name, value in read.items() if value is not None}
    return read, mistakes or _contradictions(read)


def _contradictions(read: Mapping[str, Any]) -> list[str]:
    """Fields that are missing, or say one thing twice."""
    mistakes = []
    if not all(text.split() for text in read["match"] or [""]):
        mistakes.append("has no match: the layers that it is for")
    if len(read) == 1:
        mistakes.append("sets neither dim, alpha, lr nor lr_scale")
    if "lr" in read and "lr_scale" in read:
        mistakes.append("sets both lr and lr_scale: keep one")
    return mistakes
