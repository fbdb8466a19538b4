"""Learning rates inside a network: by block of the UNet, by layer, and LoRA+ (Hayou et al. 2024)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from library.config.schema.fields import option
from library.core.errors import did_you_mean
from library.lora_files.names.keys import Site
from library.lora_files.names.layouts import BlockCounts
from networks.base import ParameterGroup, Rates
from networks.by_layer.layers import LayerRate

log = logging.getLogger("dojo")

SHAPES = ("cosine", "sine", "linear", "reverse_linear", "zeros")


def parse_weights(value: Any) -> list[float] | str:
    """`[0, 0.5, 1]`, "0,0.5,1" (nothing between commas is 0), a number, or a shape such as "cosine" or "cosine+.25"."""
    if isinstance(value, str) and "," not in value and not _is_number(value):
        shape, plus, base = value.strip().partition("+")
        if shape not in SHAPES or (plus and not _is_number(base)):
            raise ValueError(
                f"a list of numbers, or one of {', '.join(SHAPES)}, also as 'cosine+.25'.{did_you_mean(shape, SHAPES)}"
            )
        return value.strip()
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        return [float(part) if str(part).strip() else 0.0 for part in parts]
    except (TypeError, ValueError):
        raise ValueError(f"a list of numbers, or one of {', '.join(SHAPES)}") from None


@dataclass(frozen=True)
class RateOptions:
    """network_args that multiply the learning rate in parts of the network."""

    down_lr_weight: list[float] | str | None = option(None, parse=parse_weights)
    """Factors of the learning rate in the down blocks, 12 values (SDXL: 9), or a shape: cosine, sine, linear,
    reverse_linear, zeros, with an offset as in "cosine+.25". 0 leaves a block out."""
    mid_lr_weight: list[float] | str | None = option(None, parse=parse_weights)
    """Factor in the middle block (SDXL: 3 values)."""
    up_lr_weight: list[float] | str | None = option(None, parse=parse_weights)
    """Factors in the up blocks, as down_lr_weight."""
    block_lr_zero_threshold: float = option(0.0, minimum=0)
    """Factors that are not above this count as 0."""
    loraplus_lr_ratio: float | None = option(None, minimum=0)
    """LoRA+: the matrices that start at zero learn this many times faster; 16 is usual."""
    loraplus_unet_lr_ratio: float | None = option(None, minimum=0)
    """LoRA+ in the UNet; unset: loraplus_lr_ratio."""
    loraplus_text_encoder_lr_ratio: float | None = option(None, minimum=0)
    """LoRA+ in the text encoders; unset: loraplus_lr_ratio."""

    def plus_ratio(self, host: str) -> float | None:
        """The LoRA+ ratio of a host, None where it is not used."""
        own = self.loraplus_unet_lr_ratio if host == "unet" else self.loraplus_text_encoder_lr_ratio
        return own or self.loraplus_lr_ratio or None


def block_weights(options: RateOptions, blocks: BlockCounts) -> list[float] | None:
    """The factor of each block's learning rate, in the order of `block_dims`; None when the options name none."""
    if options.down_lr_weight is None and options.mid_lr_weight is None and options.up_lr_weight is None:
        return None
    parts = (
        ("down_lr_weight", options.down_lr_weight, blocks.down),
        ("mid_lr_weight", options.mid_lr_weight, blocks.mid),
        ("up_lr_weight", options.up_lr_weight, blocks.up),
    )
    inner = [weight for name, given, count in parts for weight in _weights(name, given, count)]
    cut = [weight if weight > options.block_lr_zero_threshold else 0.0 for weight in inner]
    return [1.0] * blocks.edges + cut + [1.0] * blocks.edges


def _weights(name: str, given: list[float] | str | None, count: int) -> list[float]:
    if given is None:
        return [1.0] * count
    if isinstance(given, str):
        shape, _, base = given.partition("+")
        return [weight + float(base or 0) for weight in shape_weights(shape, count)]
    if len(given) != count:
        done = "the rest is left out" if len(given) > count else "the missing ones are 1"
        log.warning("network_args: %s has %d values where the model has %d blocks; %s", name, len(given), count, done)
    return [*given, *[1.0] * count][:count]


def shape_weights(shape: str, count: int) -> list[float]:
    """`count` factors along a named shape, from the shallow to the deep end for down blocks."""
    rising = [index / max(1, count - 1) for index in range(count)]
    match shape:
        case "sine":
            return [math.sin(math.pi / 2 * at) for at in rising]
        case "cosine":
            return [math.sin(math.pi / 2 * at) for at in reversed(rising)]
        case "linear":
            return rising
        case "reverse_linear":
            return rising[::-1]
    assert shape == "zeros", shape
    return [0.0] * count


@dataclass(frozen=True)
class InnerRates:
    """What becomes of the hosts' learning rates inside a network."""

    options: RateOptions = RateOptions()
    block_weights: Sequence[float] | None = None
    """As `block_weights` gives them."""
    layers: Mapping[str, LayerRate] = field(default_factory=dict)
    """Of layers that have a rate of their own, by their keys."""

    def trains(self, site: Site) -> bool:
        """Whether neither the site's block nor the site itself has the rate 0."""
        block_stands = self.block_weights is not None and site.block is not None and self.block_weights[site.block] <= 0
        return not block_stands and not (site.key in self.layers and self.layers[site.key].zero)


@dataclass(frozen=True, eq=False)
class PlacedParameter:
    """A trained parameter and what decides its learning rate."""

    parameter: nn.Parameter
    site: Site
    faster: bool
    """LoRA+ speeds it up."""


def parameter_groups(placed: Iterable[PlacedParameter], rates: Rates, inner: InnerRates) -> list[ParameterGroup]:
    """Parameters by host, by block and layers where these have rates of their own, and by LoRA+, in the order of first
    appearance."""
    placed = list(placed)
    encoders = {item.site.host for item in placed if item.site.host != "unet"}
    groups: dict[str, ParameterGroup] = {}
    for item in placed:
        host, block = item.site.host, item.site.block
        lr = rates.by_host.get(host, 0.0)
        name = "unet" if host == "unet" else "textencoder" + (host[2:] if len(encoders) > 1 else "")
        layer = inner.layers.get(item.site.key)
        lr = lr if layer is None else layer.of(lr)
        if inner.block_weights is not None and block is not None:
            name, lr = f"{name}_block{block}", lr * inner.block_weights[block]
        name = name if layer is None else f"{name} {layer.name}"
        ratio = inner.options.plus_ratio(host)
        if ratio is not None and item.faster:
            name, lr = f"{name} plus", lr * ratio
        if lr > 0:
            groups.setdefault(name, ParameterGroup(name, [], lr)).parameters.append(item.parameter)
    return list(groups.values())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
