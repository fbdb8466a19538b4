"""The low-rank way past a frozen host: host(x) + scale · B A x, and what all networks with these two matrices share.

A ("down") leads to R rank-sized values, B ("up") back. In convolutions A is a convolution of the host's kernel to R channels
and B a 1x1 convolution. Shapes: (R, I) and (O, R), or (R, I, kh, kw) and (O, R, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from library.kernels.convolution import frozen_conv2d
from library.lora_files.low_rank.factors import alpha_in_file
from library.lora_files.names.keys import Site
from networks.algorithm import Base, Size
from networks.arithmetic.low_rank import low_rank_linear, low_rank_pointwise


class SidePath:
    """The products of one host and its two matrices, in the quickest way there is for them.

    Where `down` is frozen, nothing of x's size is kept for the backward pass.
    """

    def __init__(self, host: nn.Linear | nn.Conv2d) -> None:
        self.fused = fused_product(host)

    def __call__(
        self,
        x: Tensor,
        base: Base,
        down: Tensor,
        up: Tensor,
        scale: float,
        between: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The host's output plus the side path's, in x's type.

        Args:
            between: what is done to the values between the matrices, (B, R), (B, T, R) or (B, R, h, w).
        """
        if base.plain and between is None and self.fused is not None:
            return self.fused(x, base.module.weight, base.module.bias, down, up, scale)
        inner = project_down(x, down.to(x.dtype), base.module)
        if between is not None:
            inner = between(inner)
        y = base(x)
        change = project_up(inner, (up * scale).to(x.dtype))
        return y.add_(change) if base.plain else y + change


class LowRankFiles:
    """The part of an `Algorithm` that follows from files with `lora_down.weight`, `lora_up.weight` and `alpha`."""

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """A file without alpha means alpha = rank, so scale 1."""
        if "lora_down.weight" not in tensors or "dora_scale" in tensors:
            return None
        rank = tensors["lora_down.weight"].shape[0]
        return Size(rank, alpha_or(tensors, rank))

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of both matrices."""
        return dict(zip(("lora_down.weight", "lora_up.weight"), matrix_shapes(site.module, size.rank), strict=True))


def alpha_or(tensors: Mapping[str, Tensor], otherwise: float) -> float:
    """The alpha among a site's tensors, where it has one.

    Raises:
        ValueError: it is not one finite number.
    """
    alpha = alpha_in_file(tensors)
    return float(otherwise) if alpha is None else alpha


def rescaling(in_file: float, own: float) -> float:
    """What B is multiplied by, so that with our alpha it does what it did with the file's. The file's alpha is in fp32."""
    return 1.0 if math.isclose(in_file, own, rel_tol=1e-6) else in_file / own


def matrix_shapes(host: nn.Linear | nn.Conv2d, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of down and up."""
    if isinstance(host, nn.Linear):
        return (rank, host.in_features), (host.out_features, rank)
    return (rank, host.in_channels // host.groups, *host.kernel_size), (host.out_channels, rank, 1, 1)


def product(down: Tensor, up: Tensor) -> Tensor:
    """B A in the shape of the host's weight."""
    return (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])


def product_norm(down: Tensor, up: Tensor) -> Tensor:
    """|B A|, 0-d, from the rank-sized products: |B A|² = <BᵀB, A Aᵀ>."""
    up_OR, down_RI = up.flatten(1), down.flatten(1)
    squared = ((up_OR.t() @ up_OR) * (down_RI @ down_RI.t())).sum()
    return squared.clamp(min=0).sqrt()


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
    if not down.requires_grad:
        return frozen_conv2d(x, down, None, host)
    return F.conv2d(x, down, None, host.stride, host.padding, host.dilation)


def project_up(inner: Tensor, up: Tensor) -> Tensor:
    """The rank-sized values through B."""
    return F.linear(inner, up) if up.dim() == 2 else F.conv2d(inner, up)
