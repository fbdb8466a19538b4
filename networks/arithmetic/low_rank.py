"""A frozen linear layer and its low-rank side path as one step of autograd (Hu et al. 2021, eq. 3).

    y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ

x is saved once, the rank-r product once, each only where a matrix that learns needs it; the scale is folded into products
that happen anyway, and both paths add into one buffer, forwards and backwards. Letters: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from library.kernels.build import are_for
from library.kernels.matmul import sum_of_products

ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product, where this PyTorch has it: MKL, PyTorch's choice for fp32, is far slower on AMD's processors."""

Factors = tuple[Tensor, Tensor]
"""Two matrices whose product is wanted, (N, K) and (K, M)."""


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        down, up = down_RI.to(x.dtype), up_OR.to(x.dtype)
        scaled_NR = _product(x_NI, down.t(), scale)
        y_NO = _sum_of_two((x_NI, weight_OI.t()), (scaled_NR, up.t()), bias_O)
        down_learns, up_learns = ctx.needs_input_grad[3:5]
        ctx.save_for_backward(x if down_learns else None, weight_OI, down, up, scaled_NR if up_learns else None)
        ctx.scale, ctx.master_dtype, ctx.shape = scale, up_OR.dtype, x.shape
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, down_RI, up_OR, scaled_NR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = _product(grad_NO, up_OR, ctx.scale)
        grad_x = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_x = _sum_of_two((grad_NO, weight_OI), (grad_NR, down_RI)).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            grad_down = _product(grad_NR.t(), x.reshape(-1, x.shape[-1]), dtype=ctx.master_dtype)
        if ctx.needs_input_grad[4]:
            grad_up = _product(scaled_NR.t(), grad_NO, dtype=ctx.master_dtype).t()  # quicker this way round
        return grad_x, None, None, grad_down, grad_up, None


def low_rank_linear(
    x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
) -> Tensor:
    """x (..., I) through the frozen layer and the side path: (..., O) in x's type.

    The layer gets no gradient; `down_RI` and `up_OR` get theirs in their own type, whatever x's type.
    """
    result: Tensor = _LowRankLinear.apply(x, weight_OI, bias_O, down_RI, up_OR, scale)
    return result


def low_rank_pointwise(
    x_BIhw: Tensor, weight_OI11: Tensor, bias_O: Tensor | None, down_RI11: Tensor, up_OR11: Tensor, scale: float
) -> Tensor:
    """The same for a 1x1 convolution: (B, O, h, w), its channels innermost in memory."""
    x_BhwI, weight_OI, down_RI, up_OR = (
        x_BIhw.permute(0, 2, 3, 1),
        *(each.flatten(1) for each in (weight_OI11, down_RI11, up_OR11)),
    )
    return low_rank_linear(x_BhwI, weight_OI, bias_O, down_RI, up_OR, scale).permute(0, 3, 1, 2)


def _sum_of_two(frozen: Factors, low_rank: Factors, bias_O: Tensor | None = None) -> Tensor:
    """a b + c d + bias."""
    if are_for(frozen[0]):
        return sum_of_products(frozen, low_rank, bias_M=bias_O)
    a_NK, b_KM = frozen
    if a_NK.device.type == "cpu" and a_NK.dtype == torch.float32 and ONEDNN_LINEAR is not None:
        product: Tensor = ONEDNN_LINEAR(a_NK, b_KM.t(), bias_O, "none", [], "")
    else:
        product = F.linear(a_NK, b_KM.t(), bias_O)
    return product.addmm_(*low_rank)


def _product(a_NK: Tensor, b_KM: Tensor, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
    """scale · a b, of the factors' type or another."""
    if are_for(a_NK) and dtype in (None, torch.float32):
        return sum_of_products((a_NK, b_KM), scale=scale, dtype=dtype or a_NK.dtype)
    if scale == 1:
        return torch.mm(a_NK, b_KM).to(dtype or a_NK.dtype)
    return torch.addmm(a_NK.new_empty(()), a_NK, b_KM, beta=0, alpha=scale).to(dtype or a_NK.dtype)
