"""sd-scripts' regular expressions in network_args: ranks, learning rates, and layers to leave out.

An expression has to fit the whole name of a layer inside its host, as it stands in LoRA files but with dots:
`down_blocks.0.attentions.0.proj_in`, for SDXL's UNet `input_blocks.4.1.proj_in`, `text_model.encoder.layers.0.mlp.fc1`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from library.config.schema.fields import option
from library.config.values import convert, literal_value
from library.lora_files.names.keys import Site
from networks.by_layer.layers import Change, LayerRate

log = logging.getLogger("dojo")


def parse_patterns(value: Any) -> list[str]:
    """One regular expression or several, as a list or as text that spells one."""
    value = literal_value(value)
    patterns = list(value) if isinstance(value, (list, tuple)) else [value]
    return [_checked(pattern) for pattern in patterns]


def parse_pairs(value: Any) -> dict[str, Any]:
    """`{"regex" = value}`, or sd-scripts' "regex=value,regex=value"."""
    if isinstance(value, str):
        value = dict(_pair(part) for part in value.split(",") if part.strip())
    if not isinstance(value, Mapping):
        raise ValueError('"regex=value,regex=value" or a table {"regex" = value}')
    if any(convert(item, float) < 0 for item in value.values()):
        raise ValueError("numbers of at least 0")
    return {_checked(pattern): item for pattern, item in value.items()}


@dataclass(frozen=True)
class PatternOptions:
    """network_args that pick layers by regular expressions, in sd-scripts' words; network_layers does more."""

    network_reg_dims: dict[str, int] | None = option(None, parse=parse_pairs)
    """Ranks, "regex=8,regex=16" or {"regex" = 8}; the first expression that fits counts, 0 leaves layers out."""
    network_reg_lrs: dict[str, float] | None = option(None, parse=parse_pairs)
    """Learning rates, likewise."""
    exclude_patterns: list[str] | None = option(None, parse=parse_patterns)
    """Layers to leave out."""
    include_patterns: list[str] | None = option(None, parse=parse_patterns)
    """Layers to keep although exclude_patterns fits them."""


def pattern_changes(options: PatternOptions, sites: Iterable[Site], network_alpha: float) -> dict[str, Change]:
    """What the expressions change of these layers, by their keys. What has no effect is told as a warning."""
    if options.include_patterns and not options.exclude_patterns:
        log.warning("network_args: include_patterns has no effect, because exclude_patterns is not set")
    by_key = {site.key: site.name for site in sites}
    dims, lrs = options.network_reg_dims or {}, options.network_reg_lrs or {}
    changes = {key: Change(dims[pattern], network_alpha) for key, pattern in _first(dims, by_key).items()}
    for key, pattern in _first(lrs, by_key).items():
        rate = LayerRate(f"reg_lr_{list(lrs).index(pattern)}", lrs[pattern])
        changes[key] = replace(changes.get(key, Change()), rate=rate)
    kept = _first(options.include_patterns or (), by_key)
    for key in _first(options.exclude_patterns or (), by_key):
        if key not in kept:
            changes[key] = Change(dim=0)
    return changes


def _first(patterns: Iterable[str], by_key: Mapping[str, str]) -> dict[str, str]:
    """Key of a layer -> the first expression that fits it; tells of those that fit none."""
    compiled = {pattern: re.compile(pattern) for pattern in patterns}
    fitting = {
        key: [pattern for pattern, expression in compiled.items() if expression.fullmatch(name)]
        for key, name in by_key.items()
    }
    useful = {pattern for found in fitting.values() for pattern in found}
    for pattern in (pattern for pattern in compiled if pattern not in useful):
        log.warning("network_args: the expression '%s' fits no layer that the network acts on", pattern)
    return {key: found[0] for key, found in fitting.items() if found}


def _pair(text: str) -> tuple[str, str]:
    pattern, equals, value = (part.strip() for part in text.rpartition("="))
    if not (pattern and equals and value):
        raise ValueError(
            '"regex=value,regex=value"; an expression with a comma in it stands in a table: {"regex" = value}'
        )
    return pattern, value


def _checked(pattern: Any) -> str:
    if not isinstance(pattern, str):
        raise ValueError("regular expressions in quotes")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"regular expressions, but '{pattern}' is none ({error})") from error
    return pattern
