"""Networks that turn the outputs of a frozen layer: W' = T W with T = rescale · R, R orthogonal (Qiu et al. 2023, section 3).

R is made of blocks by Cayley's transform, R = (1 + Q) (1 - Q)⁻¹ with Q = P - Pᵀ, zero at the start. It acts on what the host
gives out, y = host(x) + m · (T - 1) (host(x) - b), so no weight is built and hosts may be quantised. Turns are computed as their
difference from 1, which half precision holds far more finely than numbers near 1.

Files are written with blocks that keep to the limit and alpha 0, for the reason that `library.lora_files.names.oft` tells. Letters:
O outputs, b size of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from library.config.schema.fields import option
from library.lora_files.names.oft import limited
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.host_weight import whole_weight
from networks.arithmetic.side_path import alpha_or
from networks.tensors import copy_into

Turn = Callable[[Tensor, Tensor], Tensor]
"""(turns - 1 in fp32, values (..., O)) -> R values - values."""


@dataclass(frozen=True)
class RotationOptions:
    """network_args of networks that turn outputs."""

    constraint: float | None = option(None, minimum=0)
    """Limit of the turn: the norm of Q is at most this times the layer's outputs; 0: none. Unset: network_alpha."""
    rescaled: bool = False
    """Also learn a factor for each output. ComfyUI leaves these factors of OFT files out."""


@dataclass(frozen=True)
class RotationSize(Size):
    """Of a site in a file."""

    rescaled: bool


def rotation_size(rank: int, tensors: Mapping[str, Tensor]) -> RotationSize:
    """The size of a site in a file, whose alpha is 0 where it has none."""
    return RotationSize(rank, alpha_or(tensors, 0), rescaled="rescale" in tensors)


class RotationAdapter(nn.Module):
    """The blocks P of one site.

    Args:
        blocks: the shape of P, (..., b, b).
        turn: how the blocks act on values.
        options: of the network; a size from a file says itself whether there are factors of outputs.
    """

    def __init__(
        self,
        host: nn.Linear | nn.Conv2d,
        blocks: tuple[int, ...],
        turn: Turn,
        size: Size,
        options: RotationOptions,
    ) -> None:
        super().__init__()
        self.host = (host,)  # in a tuple, so that the frozen layer does not become a part of this module
        self.turn = turn
        self.outputs = output_count(host)
        self.limit = self.outputs * (size.alpha if options.constraint is None else options.constraint)
        device = host.weight.device
        self.oft_blocks = nn.Parameter(torch.zeros(blocks, device=device))
        rescaled = size.rescaled if isinstance(size, RotationSize) else options.rescaled
        self.rescale = nn.Parameter(torch.ones(self.outputs, device=device)) if rescaled else None

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output, turned."""
        y, bias = base(x), base.module.bias
        values = y.movedim(1, -1) if y.dim() == 4 else y
        change = self._change(values if bias is None else values - bias) * context.multiplier
        return y + (change.movedim(-1, 1) if y.dim() == 4 else change)

    def delta(self) -> Tensor:
        """(T - 1) W."""
        weight = whole_weight(self.host[0]).to(self.oft_blocks.device)
        return self._change(weight.movedim(0, -1)).movedim(-1, 0)

    def norm(self) -> Tensor:
        """|delta|."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """LyCORIS' names."""
        own = {"oft_blocks": limited(self.oft_blocks, self.limit), "alpha": torch.tensor(0.0)}
        return own if self.rescale is None else {**own, "rescale": self.rescale.view(self._rescale_shape())}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take blocks and factors; blocks keep to the limit of their file, and in use to the network's own."""
        file_limit = self.outputs * alpha_or(tensors, 0)
        targets: dict[str, Tensor] = {"oft_blocks": self.oft_blocks}
        if self.rescale is not None:
            targets["rescale"] = self.rescale.view(self._rescale_shape())
        copy_into(targets, tensors, optional=("alpha",))
        with torch.no_grad():
            self.oft_blocks.copy_(limited(self.oft_blocks, file_limit))

    def _change(self, values: Tensor) -> Tensor:
        """(T - 1) values, (..., O)."""
        change = self.turn(cayley_turn(limited(self.oft_blocks, self.limit)), values)
        if self.rescale is None:
            return change
        grown = (self.rescale - 1).to(values.dtype)
        return change + grown * (values + change)

    def _rescale_shape(self) -> tuple[int, ...]:
        return self.outputs, *[1] * (1 if isinstance(self.host[0], nn.Linear) else 3)


def output_count(host: nn.Linear | nn.Conv2d) -> int:
    """O."""
    return host.out_features if isinstance(host, nn.Linear) else host.out_channels


class _Cayley(torch.autograd.Function):
    """2 Q (1 - Q)⁻¹. With M = (1 - Q)⁻¹ = 1 + turns / 2 its differential is 2 M dQ M, so nothing is solved backwards."""

    @staticmethod
    def forward(ctx: Any, skew: Tensor) -> Tensor:
        identity = torch.eye(skew.shape[-1], device=skew.device, dtype=skew.dtype)
        turns, _ = torch.linalg.solve_ex(identity - skew, 2 * skew)  # has an inverse whatever Q is: nothing to check
        ctx.save_for_backward(turns)
        return turns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (turns,) = ctx.saved_tensors
        inverse = turns / 2
        inverse.diagonal(dim1=-2, dim2=-1).add_(1)
        return 2 * (inverse.mT @ grad @ inverse.mT)


def cayley_turn(blocks: Tensor) -> Tensor:
    """R - 1 of each block P (..., b, b), fp32."""
    turns: Tensor = _Cayley.apply(blocks - blocks.mT)
    return turns
