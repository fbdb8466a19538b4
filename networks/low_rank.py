"""A frozen linear layer and its low-rank side path as one step of autograd (Hu et al. 2021, eq. 3).

    y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ

x is saved once, the rank-r product once; the scale is folded into products that happen anyway, and both paths add into
one buffer, forwards and backwards. Letters: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        down, up = down_RI.to(x.dtype), up_OR.to(x.dtype)
        scaled_NR = _scaled_product(x_NI, down.t(), scale)
        y_NO = F.linear(x_NI, weight_OI, bias_O).addmm_(scaled_NR, up.t())
        ctx.save_for_backward(x, weight_OI, down, up, scaled_NR)
        ctx.scale, ctx.master_dtype = scale, down_RI.dtype
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, down_RI, up_OR, scaled_NR = ctx.saved_tensors
        grad_NO, x_NI = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        grad_NR = _scaled_product(grad_NO, up_OR, ctx.scale)
        grad_x = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad_NO, weight_OI).addmm_(grad_NR, down_RI).view(x.shape)
        if ctx.needs_input_grad[3]:
            grad_down = torch.mm(grad_NR.t(), x_NI).to(ctx.master_dtype)
        if ctx.needs_input_grad[4]:
            grad_up = torch.mm(grad_NO.t(), scaled_NR).to(ctx.master_dtype)
        return grad_x, None, None, grad_down, grad_up, None


def low_rank_linear(
    x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
) -> Tensor:
    """x (..., I) through the frozen layer and the side path: (..., O) in x's type.

    The layer gets no gradient; `down_RI` and `up_OR` get theirs in their own type, whatever x's type.
    """
    result: Tensor = _LowRankLinear.apply(x, weight_OI, bias_O, down_RI, up_OR, scale)
    return result


def _scaled_product(a_NK: Tensor, b_KM: Tensor, scale: float) -> Tensor:
    """scale · a b in one product."""
    return torch.addmm(a_NK.new_empty(()), a_NK, b_KM, beta=0, alpha=scale)
