"""SVDiff (Han et al. 2023): a weight's singular values are shifted, W = U diag(s) V -> U diag(relu(s + d)) V.

Only d is trained, one number a singular value, so a file takes some hundred kilobytes. U, s and V are computed when training
starts and kept in fp32: twice the memory of the layers. A convolution's kernel counts to its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.host_weight import whole_weight
from networks.options import refuse_dropout
from networks.tensors import copy_into

IN_ATTENTION = ("to_q", "to_k", "to_v", "to_out_0", "q_proj", "k_proj", "v_proj", "out_proj")


@dataclass(frozen=True)
class SVDiffOptions:
    """network_args of SVDiff."""

    layers: Literal["all", "attention"] = "all"
    """all: every layer in the network's scope, as in the paper; attention: queries, keys, values and outputs."""


@NETWORKS.register("my_network.svdiff")
class SVDiff:
    """Learned shifts of the singular values."""

    Options = SVDiffOptions
    faster: frozenset[str] = frozenset()
    draws_random = False
    capturable = True
    scalable = True

    def __init__(self, options: SVDiffOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("my_network.svdiff", network_dropout)
        self.layers = options.layers

    def acts_on(self, site: Site) -> bool:
        """Whether the options name this layer."""
        return self.layers == "all" or site.key.endswith(IN_ATTENTION)

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> SVDiffAdapter:
        """Shifts that start at 0: nothing is random."""
        return SVDiffAdapter(site.module)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """There is no rank to choose; any size says that the site is there."""
        return Size(rank=1, alpha=1.0) if "spectral_shift" in tensors else None


class SVDiffAdapter(nn.Module):
    """d of one layer, 0 at the start."""

    u: Tensor
    s: Tensor
    v: Tensor

    def __init__(self, host: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        weight = whole_weight(host)
        u, s, v = torch.linalg.svd(weight.flatten(1), full_matrices=False)
        self.register_buffer("u", u.view(*u.shape, *[1] * (weight.dim() - 2)))
        self.register_buffer("s", s)
        self.register_buffer("v", v.view(-1, *weight.shape[1:]))
        self.shift = nn.Parameter(torch.zeros_like(s))

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """base(x) + U diag(relu(s + d) - s) V x."""
        u, v = self.u.to(x.dtype), self.v.to(x.dtype)
        change = (self._change() * context.multiplier).to(x.dtype)
        host = base.module
        if isinstance(host, nn.Linear):
            return base(x) + F.linear(F.linear(x, v) * change, u)
        inner = F.conv2d(x, v, None, host.stride, host.padding, host.dilation)
        return base(x) + F.conv2d(inner * change.view(-1, 1, 1), u)

    def _change(self) -> Tensor:
        """Of the singular values."""
        return F.relu(self.s + self.shift) - self.s

    def delta(self) -> Tensor:
        """U diag(relu(s + d) - s) V."""
        return (self.u.flatten(1) * self._change() @ self.v.flatten(1)).view(len(self.u), *self.v.shape[1:])

    def norm(self) -> Tensor:
        """|relu(s + d) - s|, as U and V are orthogonal."""
        return self._change().norm()

    def tensors(self) -> dict[str, Tensor]:
        """The shifts."""
        return {"spectral_shift": self.shift}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the shifts."""
        copy_into(self.tensors(), tensors)

    def scale_delta(self, factor: Tensor) -> None:
        """The singular values change by `factor` times what they did; none gets below 0 where that is at most 1."""
        with torch.no_grad():
            self.shift.copy_(self._change() * factor)
