"""PiSSA (Meng et al. 2024, section 3): LoRA that starts from the principal singular vectors of its host's weight.

W = U S Vᵀ gives B0 = U_r sqrt(S_r / scale) and A0 = sqrt(S_r / scale) V_rᵀ. The paper trains B and A from there upon
W - scale · B0 A0; here the host stays as it is and the change is

    scale · (B A - B0 A0) = scale · (dB A + B0 dA),    A = A0 + dA,  B = B0 + dB

which is the same function with the same gradients. Written the second way it is exactly zero at the start, nothing large cancels
in half precision, and [dB B0], [A; dA] are a LoRA of twice the rank, which every program reads. dB and dA are what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.host_weight import whole_weight
from networks.arithmetic.side_path import (
    LowRankFiles,
    SidePath,
    alpha_or,
    matrix_shapes,
    product,
    product_norm,
    rescaling,
)
from networks.lora import LoRA
from networks.options import refuse_dropout
from networks.tensors import copy_into

SPARE = 8
"""Singular vectors that the randomised decomposition computes beyond those asked for (Halko et al. 2011, section 4.2)."""


@dataclass(frozen=True)
class PiSSAOptions:
    """network_args of PiSSA alone."""

    niter: int = option(4, minimum=0)
    """Power iterations of the quick, randomised decomposition of each weight; 0: the exact one, which takes far longer."""


@NETWORKS.register("networks.pissa")
class PiSSA(LowRankFiles):
    """LoRA along what matters most in each weight. Its files are LoRA's, of twice the rank."""

    Options = PiSSAOptions
    faster = frozenset({"up_change"})
    draws_random = False
    capturable = True
    scalable = False
    applied_as = LoRA

    def __init__(self, options: PiSSAOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.pissa", network_dropout, "would no longer start without a change")
        self.niter = options.niter

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> PiSSAAdapter:
        """Without any change yet.

        Raises:
            UserError: the rank is higher than that of the host's weight.
        """
        down_shape, up_shape = matrix_shapes(site.module, size.rank)
        weight_ON = whole_weight(site.module).flatten(1)
        if size.rank > min(weight_ON.shape):
            raise UserError(
                f"network_dim: {site.key} has only {min(weight_ON.shape)} singular vectors, and PiSSA was asked for the rank "
                f"{size.rank}: choose a lower rank."
            )
        up_OR, down_RN = principal_factors(weight_ON, size.rank, self.niter, generator)
        half = size.scale**-0.5
        return PiSSAAdapter(site.module, size, (down_RN * half).view(down_shape), (up_OR * half).view(up_shape))

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """Half of the file's rank and alpha.

        Raises:
            ValueError: its rank is odd, or its alpha is not above 0.
        """
        in_file = super().size_in_file(tensors)
        if in_file is None:
            return None
        if in_file.rank % 2:
            raise ValueError(f"a file of networks.pissa has an even rank, not {in_file.rank}")
        if in_file.alpha <= 0:
            raise ValueError(f"a file of networks.pissa has an alpha above 0, not {in_file.alpha:g}")
        return Size(in_file.rank // 2, in_file.alpha / 2)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of both matrices, which have twice the rank."""
        return super().shapes(site, Size(2 * size.rank, size.alpha))


class PiSSAAdapter(nn.Module):
    """What changes both factors of one site, and the factors it starts from.

    Args:
        down, up: A0 (R, ...) and B0 (O, R, ...).
    """

    down: Tensor
    down_offset: Tensor
    up: Tensor

    def __init__(self, host: nn.Linear | nn.Conv2d, size: Size, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.size = size
        self.path = SidePath(host)
        self.register_buffer("down", down)
        self.register_buffer("down_offset", torch.zeros_like(down))
        self.register_buffer("up", up)
        self.down_change = nn.Parameter(torch.zeros_like(down))
        self.up_change = nn.Parameter(torch.zeros_like(up))

    def factors(self) -> tuple[Tensor, Tensor]:
        """[A; dA] (2R, ...) and [dB B0] (O, 2R, ...)."""
        down = torch.cat([self.down + self.down_change, self.down_offset + self.down_change])
        return down, torch.cat([self.up_change, self.up], dim=1)

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output plus the side path's."""
        return self.path(x, base, *self.factors(), self.size.scale * context.multiplier)

    def delta(self) -> Tensor:
        """scale · (B A - B0 A0) in the shape of the host's weight."""
        return product(*self.factors()) * self.size.scale

    def norm(self) -> Tensor:
        """Its norm, without the product."""
        return product_norm(*self.factors()) * self.size.scale

    def tensors(self) -> dict[str, Tensor]:
        """A LoRA of twice the rank and twice the alpha."""
        down, up = self.factors()
        return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(2.0 * self.size.alpha)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take both pairs. What the file's A has changed by goes into `down_offset`, so that it is taken over to the bit."""
        factor = rescaling(alpha_or(tensors, 2 * self.size.rank), 2 * self.size.alpha)
        down, up = (torch.empty_like(each) for each in self.factors())
        copy_into({"lora_down.weight": down, "lora_up.weight": up}, tensors, optional=("alpha",))
        with torch.no_grad():
            self.down_change.zero_()
            for target, part in zip((self.down, self.down_offset), down.chunk(2), strict=True):
                target.copy_(part)
            for target, part in zip((self.up_change, self.up), (up * factor).chunk(2, dim=1), strict=True):
                target.copy_(part)


@torch.no_grad()
def principal_factors(weight_ON: Tensor, rank: int, niter: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """U sqrt(S) (O, rank) and sqrt(S) Vᵀ (rank, N) of the greatest singular values, on the weight's device.

    With niter > 0 the randomised decomposition of Halko et al. 2011, algorithm 4.4; else exact.
    """
    if weight_ON.is_meta:
        return weight_ON.new_empty(len(weight_ON), rank), weight_ON.new_empty(rank, weight_ON.shape[1])
    core, basis_OK = weight_ON, None
    if niter:
        count = min(rank + SPARE, *weight_ON.shape)
        drawn_NK = torch.randn(weight_ON.shape[1], count, generator=generator).to(weight_ON)
        basis_OK = torch.linalg.qr(weight_ON @ drawn_NK).Q
        for _ in range(niter):
            basis_OK = torch.linalg.qr(weight_ON @ torch.linalg.qr(weight_ON.t() @ basis_OK).Q).Q
        core = basis_OK.t() @ weight_ON
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    left = left if basis_OK is None else basis_OK @ left
    roots_R = values[:rank].sqrt() * signs(right[:rank])
    return left[:, :rank] * roots_R, roots_R[:, None] * right[:rank]


def signs(right_RN: Tensor) -> Tensor:
    """(R,) what makes each row's largest value positive.

    A singular vector's sign is free, and rounding decides it. A state holds the changes alone, so these factors must come out the
    same wherever a run is resumed.
    """
    largest_R1 = right_RN.abs().argmax(dim=1, keepdim=True)
    return torch.where(right_RN.gather(1, largest_R1) < 0, -1.0, 1.0).squeeze(1)
