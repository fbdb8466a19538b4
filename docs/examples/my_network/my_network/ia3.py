"""(IA)³ (Liu et al. 2022): every output of a frozen layer is multiplied by a learned factor, W -> (1 + g) W.

One number an output channel: a file of a few hundred kilobytes. Names and tensors are those of LyCORIS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.keys import Site
from networks.algorithm import Base, Moment, Size
from networks.tensors import copy_into

IN_PAPER = ("to_k", "to_v", "ff_net_2", "k_proj", "v_proj", "mlp_fc2")


@dataclass(frozen=True)
class IA3Options:
    """network_args of (IA)³."""

    layers: Literal["paper", "all"] = "paper"
    """paper: keys, values and the second layer of the feed-forward part; all: every layer in the network's scope."""


@NETWORKS.register("my_network.ia3")
class IA3:
    """Learned factors of the outputs."""

    Options = IA3Options
    faster: frozenset[str] = frozenset()
    draws_random = False

    def __init__(self, options: IA3Options, network_dropout: float = 0.0) -> None:
        if network_dropout:
            raise UserError(
                "network_dropout has no meaning for my_network.ia3, which has no inner values: leave it out."
            )
        self.layers = options.layers

    def acts_on(self, site: Site) -> bool:
        """Whether the options name this layer."""
        return self.layers == "all" or site.key.endswith(IN_PAPER)

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> IA3Adapter:
        """Factors that start at 1: nothing is random."""
        return IA3Adapter(site.module)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """(IA)³ has no rank; any size says that the site is there."""
        return Size(rank=1, alpha=1.0) if "on_input" in tensors else None


class IA3Adapter(nn.Module):
    """g of one layer, 0 at the start."""

    def __init__(self, host: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.host = (host,)  # in a tuple, so that the frozen layer does not become a part of this module
        self.gain = nn.Parameter(torch.zeros(host.weight.shape[0], device=host.weight.device))

    def forward(self, x: Tensor, base: Base, moment: Moment) -> Tensor:
        """base(x) + g (base(x) - bias): the bias is not scaled."""
        y, bias = base(x), base.module.bias
        gain = (self.gain * moment.multiplier).to(y.dtype)
        if isinstance(base.module, nn.Conv2d):
            gain, bias = gain.view(-1, 1, 1), None if bias is None else bias.view(-1, 1, 1)
        return y + gain * (y if bias is None else y - bias)

    def delta(self) -> Tensor:
        """g W."""
        weight = self.host[0].weight.float()
        return self.gain.view(-1, *[1] * (weight.dim() - 1)) * weight

    def norm(self) -> Tensor:
        """|g W|."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """g as a column, and a mark that it acts on outputs."""
        shape = (-1, *[1] * (self.host[0].weight.dim() - 1))
        return {"weight": self.gain.view(shape), "on_input": torch.tensor(False)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take g."""
        copy_into({"weight": self.tensors()["weight"]}, tensors, optional=("on_input",))

    def scale_delta(self, factor: Tensor) -> None:
        """g times the factor."""
        with torch.no_grad():
            self.gain.mul_(factor)
