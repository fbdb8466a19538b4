"""LoRA (Hu et al. 2021): W + scale · B A, with A (down) random and B (up) zero at the start, scale = alpha / rank.

In convolutions A is a convolution of the host's kernel to `rank` channels and B a 1x1 convolution back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from library.config.schema.fields import option
from library.config.values import convert
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.side_path import (
    LowRankFiles,
    SidePath,
    alpha_or,
    matrix_shapes,
    product,
    product_norm,
    rescaling,
)
from networks.tensors import copy_into


def refuse_dora(value: Any) -> bool:
    """LyCORIS' and PEFT's switch, off."""
    if convert(value, bool):
        raise ValueError('false; DoRA is a network of its own here: network_module = "networks.dora"')
    return False


@dataclass(frozen=True)
class LoRAOptions:
    """network_args of LoRA alone."""

    rank_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out one of the ranks, drawn for each sample."""
    module_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out a module's whole LoRA, drawn for each call."""
    dora_wd: bool = option(False, parse=refuse_dora, aliases=("use_dora",))
    """LyCORIS' word for DoRA, which is a network of its own: networks.dora."""


@dataclass(frozen=True)
class Dropouts:
    """Probabilities of dropping values between the matrices, ranks, and whole modules; 0 is off."""

    neuron: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    @property
    def any(self) -> bool:
        """Whether one of them is on."""
        return max(self.neuron, self.rank, self.module) > 0


@NETWORKS.register("networks.lora")
class LoRA(LowRankFiles):
    """The LoRA of sd-scripts: its targets, options, names and tensors."""

    Options = LoRAOptions
    faster = frozenset({"up"})
    capturable = True
    scalable = True

    def __init__(self, options: LoRAOptions, network_dropout: float = 0.0) -> None:
        self.dropouts = Dropouts(network_dropout, options.rank_dropout or 0.0, options.module_dropout or 0.0)
        self.draws_random = self.dropouts.any

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> LoRAAdapter:
        """Down drawn uniformly from ±1/sqrt(fan in), up zero."""
        return LoRAAdapter(site.module, size, self.dropouts, generator)


class LoRAAdapter(nn.Module):
    """The two matrices of one site.

    Dropout draws from torch's default generator of x's device.
    """

    def __init__(self, host: nn.Linear | nn.Conv2d, size: Size, dropouts: Dropouts, generator: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.dropouts = dropouts
        down_shape, up_shape = matrix_shapes(host, size.rank)
        down = torch.empty(down_shape)
        nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=generator)
        device = host.weight.device
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(up_shape, device=device))
        self.path = SidePath(host)

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output plus the side path's."""
        dropping = partial(drop, dropouts=self.dropouts) if self.training and self.dropouts.any else None
        return self.path(x, base, self.down, self.up, self.size.scale * context.multiplier, dropping)

    def delta(self) -> Tensor:
        """scale · B A in the shape of the host's weight."""
        return product(self.down, self.up) * self.size.scale

    def norm(self) -> Tensor:
        """|scale · B A|, without the product."""
        return product_norm(self.down, self.up) * self.size.scale

    def tensors(self) -> dict[str, Tensor]:
        """Names and shapes of sd-scripts."""
        return {"lora_down.weight": self.down, "lora_up.weight": self.up, "alpha": torch.tensor(float(self.size.alpha))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the matrices; where the file's alpha is another, up is rescaled so that the change of the weight is the file's."""
        factor = rescaling(alpha_or(tensors, self.size.rank), self.size.alpha)
        copy_into({"lora_down.weight": self.down, "lora_up.weight": self.up}, tensors, optional=("alpha",))
        if factor != 1:
            with torch.no_grad():
                self.up.mul_(factor)

    def scale_delta(self, factor: Tensor) -> None:
        """Both matrices times sqrt(factor)."""
        with torch.no_grad():
            self.down.mul_(factor.sqrt())
            self.up.mul_(factor.sqrt())


def drop(inner: Tensor, dropouts: Dropouts) -> Tensor:
    """Neuron, rank and module dropout of the values between the matrices, (B, R), (B, T, R) or (B, R, h, w).

    Kept values and ranks are scaled up by 1 / (1 - p); kept modules are not, as in sd-scripts.
    """
    if dropouts.neuron > 0:
        inner = F.dropout(inner, dropouts.neuron)
    if dropouts.rank > 0:
        batch = inner.shape[0]
        shape = (
            (batch, inner.shape[1], 1, 1) if inner.dim() == 4 else (batch, *[1] * (inner.dim() - 2), inner.shape[-1])
        )
        inner = inner * F.dropout(inner.new_ones(shape), dropouts.rank)
    if dropouts.module > 0:
        inner = inner * (torch.rand((), device=inner.device) >= dropouts.module)
    return inner
