"""HRA (Yuan et al. 2024): the inputs of a layer are turned by reflections, W' = W H₁ ... H_r with H = 1 - 2 u uᵀ / |u|².

A product of reflections is 1 - U T Uᵀ, with T⁻¹ the part of UᵀU above the diagonal and half of the diagonal (Schreiber and Van
Loan 1989, in the form of Puglisi 1992). So x is turned by two thin products before it reaches the host, no weight is built, and
hosts may be quantised. The reflections start in equal pairs, which undo one another. In convolutions the input channels are
turned, alike at every position. Letters: I inputs, R reflections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.dense import weight_shape
from networks.arithmetic.host_weight import whole_weight
from networks.options import refuse_dropout
from networks.tensors import copy_into


@dataclass(frozen=True)
class HRAOptions:
    """HRA has none: network_dim is the number of reflections."""


@NETWORKS.register("networks.hra")
class HRA:
    """Rotations that keep the singular values of every weight."""

    Options = HRAOptions
    faster: frozenset[str] = frozenset()
    draws_random = False
    capturable = True
    alpha_scales = False
    scalable = False

    def __init__(self, options: HRAOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.hra", network_dropout)

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> HRAAdapter:
        """Directions drawn at random, each twice.

        Raises:
            UserError: the number of reflections is odd.
        """
        if size.rank % 2:
            raise UserError(
                f"HRA starts with pairs of reflections that undo one another: network_dim {size.rank} must be even."
            )
        return HRAAdapter(site.module, size.rank, generator)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank is the number of reflections."""
        if "hra_u" not in tensors:
            return None
        return Size(tensors["hra_u"].shape[1], float(tensors["hra_u"].shape[1]))

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of the directions."""
        return {"hra_u": (weight_shape(site.module)[1], size.rank)}


class HRAAdapter(nn.Module):
    """The directions of one site's reflections, the columns of `hra_u`; their lengths do not count."""

    def __init__(self, host: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.host = (host,)  # in a tuple, so that the frozen layer does not become a part of this module
        drawn_IR = torch.randn(weight_shape(host)[1], rank // 2, generator=generator)
        pairs_IR = (drawn_IR / drawn_IR.norm(dim=0)).repeat_interleave(2, dim=1)
        self.hra_u = nn.Parameter(pairs_IR.to(host.weight.device))

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output for the turned inputs."""
        values = x.movedim(1, -1) if x.dim() == 4 else x
        change = self._change(values) * context.multiplier
        return base(x + (change.movedim(-1, 1) if x.dim() == 4 else change))

    def delta(self) -> Tensor:
        """W (H₁ ... H_r - 1)."""
        weight = whole_weight(self.host[0]).to(self.hra_u.device)
        turned = self._change(weight.movedim(1, -1), transposed=True)
        return turned.movedim(-1, 1)

    def norm(self) -> Tensor:
        """|delta|."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """The directions under PEFT's name."""
        return {"hra_u": self.hra_u}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the directions."""
        copy_into(self.tensors(), tensors)

    def _change(self, values: Tensor, transposed: bool = False) -> Tensor:
        """H v - v for each row v of (..., I), or Hᵀ v - v, which is what turns the rows of a weight."""
        u_IR = self.hra_u
        products_RR = u_IR.t() @ u_IR
        halves_R = products_RR.diagonal().clamp(min=torch.finfo(u_IR.dtype).tiny) / 2
        inverse_RR = products_RR.triu(1) + torch.diag(halves_R)
        if not transposed:
            inverse_RR = inverse_RR.t()
        back_RI = torch.linalg.solve_triangular(inverse_RR, u_IR.t(), upper=transposed)
        return -(values @ u_IR.to(values.dtype)) @ back_RI.to(values.dtype)
