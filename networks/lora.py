"""LoRA (Hu et al. 2021): W + scale · B A, with A (down) random and B (up) zero at the start, scale = alpha / rank.

In convolutions A is a convolution of the host's kernel to `rank` channels and B a 1x1 convolution back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from library.config.schema.fields import option
from library.core.registry import NETWORKS
from library.lora_files.keys import Site
from networks.algorithm import Base, Moment, Size
from networks.low_rank import low_rank_linear, low_rank_pointwise
from networks.tensors import copy_into


@dataclass(frozen=True)
class LoRAOptions:
    """network_args of LoRA alone."""

    rank_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out one of the ranks, drawn for each sample."""
    module_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out a module's whole LoRA, drawn for each call."""


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
class LoRA:
    """The LoRA of sd-scripts: its targets, options, names and tensors."""

    Options = LoRAOptions
    faster = frozenset({"up"})
    scalable = True

    def __init__(self, options: LoRAOptions, network_dropout: float = 0.0) -> None:
        self.dropouts = Dropouts(network_dropout, options.rank_dropout or 0.0, options.module_dropout or 0.0)
        self.draws_random = self.dropouts.any

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> LoRAAdapter:
        """Down drawn uniformly from ±1/sqrt(fan in), up zero."""
        return LoRAAdapter(site.module, size, self.dropouts, generator)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """A file without alpha means alpha = rank, so scale 1."""
        if "lora_down.weight" not in tensors:
            return None
        rank = tensors["lora_down.weight"].shape[0]
        return Size(rank, alpha_in_file(tensors, rank))

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of both matrices."""
        return dict(zip(("lora_down.weight", "lora_up.weight"), matrix_shapes(site.module, size.rank), strict=True))


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
        self.fused = fused_product(host)

    def forward(self, x: Tensor, base: Base, moment: Moment) -> Tensor:
        """The host's output plus the side path's."""
        scale = self.size.scale * moment.multiplier
        dropping = self.training and self.dropouts.any
        if base.plain and not dropping and self.fused is not None:
            return self.fused(x, base.module.weight, base.module.bias, self.down, self.up, scale)
        inner = project_down(x, self.down.to(x.dtype), base.module)
        if dropping:
            inner = drop(inner, self.dropouts)
        y, change = base(x), project_up(inner, (self.up * scale).to(x.dtype))
        return y.add_(change) if base.plain else y + change

    def delta(self) -> Tensor:
        """scale · B A in the shape of the host's weight."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        return product.view(self.up.shape[0], *self.down.shape[1:]) * self.size.scale

    def norm(self) -> Tensor:
        """|scale B A|, from the rank-sized products: |B A|² = <BᵀB, A Aᵀ>."""
        up_OR, down_RI = self.up.flatten(1), self.down.flatten(1)
        squared = ((up_OR.t() @ up_OR) * (down_RI @ down_RI.t())).sum()
        return squared.clamp(min=0).sqrt() * self.size.scale

    def tensors(self) -> dict[str, Tensor]:
        """Names and shapes of sd-scripts."""
        return {"lora_down.weight": self.down, "lora_up.weight": self.up, "alpha": torch.tensor(float(self.size.alpha))}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the matrices; where the file's alpha is another, up is rescaled so that the change of the weight is the file's."""
        rank = self.size.rank
        alpha = alpha_in_file(tensors, rank)
        copy_into({"lora_down.weight": self.down, "lora_up.weight": self.up}, tensors, optional=("alpha",))
        if alpha != self.size.alpha:
            with torch.no_grad():
                self.up.mul_(alpha / self.size.alpha)

    def scale_delta(self, factor: Tensor) -> None:
        """Both matrices times sqrt(factor)."""
        with torch.no_grad():
            self.down.mul_(factor.sqrt())
            self.up.mul_(factor.sqrt())


def alpha_in_file(tensors: Mapping[str, Tensor], rank: int) -> float:
    """Alpha of a site; the rank where the file has none.

    Raises:
        ValueError: it is not one finite number.
    """
    if "alpha" not in tensors:
        return float(rank)
    if tensors["alpha"].numel() != 1 or not tensors["alpha"].isfinite().all() or tensors["alpha"].is_complex():
        raise ValueError("alpha is not one finite number")
    return float(tensors["alpha"])


def matrix_shapes(host: nn.Linear | nn.Conv2d, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of down and up."""
    if isinstance(host, nn.Linear):
        return (rank, host.in_features), (host.out_features, rank)
    return (rank, host.in_channels // host.groups, *host.kernel_size), (host.out_channels, rank, 1, 1)


def fused_product(host: nn.Linear | nn.Conv2d) -> Callable[..., Tensor] | None:
    """The host and its side path as one step of autograd; None where there is no such step."""
    if isinstance(host, nn.Linear):
        return low_rank_linear
    pointwise = host.kernel_size == host.stride == host.dilation == (1, 1) and host.groups == 1
    return low_rank_pointwise if pointwise and host.padding == (0, 0) else None


def project_down(x: Tensor, down: Tensor, host: nn.Linear | nn.Conv2d) -> Tensor:
    """x through A; a convolution with the host's stride, padding and dilation."""
    if isinstance(host, nn.Linear):
        return F.linear(x, down)
    return F.conv2d(x, down, None, host.stride, host.padding, host.dilation)


def project_up(inner: Tensor, up: Tensor) -> Tensor:
    """The rank-sized values through B."""
    return F.linear(inner, up) if up.dim() == 2 else F.conv2d(inner, up)


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
