"""(IA)³ (Liu et al. 2022): features of a frozen layer are multiplied by learned factors 1 + g, outputs or inputs.

    outputs: W -> (1 + g) W, the bias as it is        inputs: W -> W (1 + g)

In the paper keys and values are scaled where they come out, and the second layer of the feed-forward part where they go in.
One number a feature: files of some hundred kilobytes. Names and shapes are those of LyCORIS; of other programs A1111 reads them
(linear layers alone).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.host_weight import whole_weight
from networks.options import refuse_dropout
from networks.tensors import copy_into

ON_OUTPUT = ("to_k", "to_v", "k_proj", "v_proj")
ON_INPUT = ("ff_net_2", "mlp_fc2")


@dataclass(frozen=True)
class IA3Options:
    """network_args of (IA)³."""

    layers: Literal["paper", "all"] = "paper"
    """paper: keys, values and the second layer of the feed-forward part; all: every layer in the network's scope."""


@dataclass(frozen=True)
class IA3Size(Size):
    """Of a site in a file."""

    on_input: bool


@NETWORKS.register("networks.ia3")
class IA3:
    """The (IA)³ of LyCORIS, with its preset's choice of layers."""

    Options = IA3Options
    faster: frozenset[str] = frozenset()
    draws_random = False
    capturable = True
    alpha_scales = False
    scalable = True

    def __init__(self, options: IA3Options, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.ia3", network_dropout)
        self.layers = options.layers

    def acts_on(self, site: Site) -> bool:
        """Whether the options name this layer."""
        return self.layers == "all" or site.key.endswith(ON_OUTPUT + ON_INPUT)

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> IA3Adapter:
        """Factors that start at 1: nothing is random."""
        return IA3Adapter(site.module, self._on_input(site, size))

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """(IA)³ has no rank; a file says whether it acts on inputs."""
        if "on_input" not in tensors:
            return None
        return IA3Size(rank=1, alpha=1.0, on_input=bool(tensors["on_input"]))

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of the factors."""
        return {"weight": gain_shape(site.module, self._on_input(site, size))}

    def _on_input(self, site: Site, size: Size) -> bool:
        return size.on_input if isinstance(size, IA3Size) else site.key.endswith(ON_INPUT)


class IA3Adapter(nn.Module):
    """g of one layer, 0 at the start."""

    def __init__(self, host: nn.Linear | nn.Conv2d, on_input: bool) -> None:
        super().__init__()
        self.host = (host,)  # in a tuple, so that the frozen layer does not become a part of this module
        self.on_input = on_input
        self.gain = nn.Parameter(torch.zeros(gain_shape(host, on_input), device=host.weight.device))

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """base((1 + m g) x), or base(x) + m g (base(x) - bias)."""
        gain = (self.gain * context.multiplier).to(x.dtype)
        if self.on_input:
            return base(torch.addcmul(x, gain, x))
        y, bias = base(x), base.module.bias
        return torch.addcmul(y, gain, y if bias is None else y - bias.view_as(gain))

    def delta(self) -> Tensor:
        """g W, or W g."""
        weight = whole_weight(self.host[0]).to(self.gain.device)
        axis = 1 if self.on_input else 0
        return weight * self.gain.view([-1 if each == axis else 1 for each in range(weight.dim())])

    def norm(self) -> Tensor:
        """Of the change."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """g, and whether it acts on inputs."""
        return {"weight": self.gain, "on_input": torch.tensor(int(self.on_input))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take g."""
        if "on_input" in tensors and bool(tensors["on_input"]) != self.on_input:
            raise ValueError(f"on_input is {bool(tensors['on_input'])} where this network has {self.on_input}")
        copy_into({"weight": self.gain}, tensors, optional=("on_input",))

    def scale_delta(self, factor: Tensor) -> None:
        """g times the factor."""
        with torch.no_grad():
            self.gain.mul_(factor)


def gain_shape(host: nn.Linear | nn.Conv2d, on_input: bool) -> tuple[int, ...]:
    """(features,), or (1, channels, 1, 1) for a convolution."""
    if isinstance(host, nn.Linear):
        return (host.in_features if on_input else host.out_features,)
    return 1, host.in_channels if on_input else host.out_channels, 1, 1
