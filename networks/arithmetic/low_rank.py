"""A frozen linear layer and its low-rank side path as one step of autograd (Hu et al. 2021, eq. 3).

    y = x Wᵀ + b + scale · (x Aᵀ) Bᵀ

x is saved once, the rank-r product once, each only where a matrix that learns needs it; the scale is folded into products
that happen anyway, and both paths add into one buffer, forwards and backwards. Letters: N rows, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
"""oneDNN's product, where this PyTorch has it."""


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, down_RI: Tensor, up_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.reshape(-1, x.shape[-1])
        down, up = down_RI.to(x.dtype), up_OR.to(x.dtype)
        scaled_NR = _scaled_product(x_NI, down.t(), scale)
        y_NO = _linear(x_NI, weight_OI, bias_O).addmm_(scaled_NR, up.t())
        down_learns, up_learns = ctx.needs_input_grad[3:5]
        ctx.save_for_backward(x if down_learns else None, weight_OI, down, up, scaled_NR if up_learns else None)
        ctx.scale, ctx.master_dtype, ctx.shape = scale, up_OR.dtype, x.shape
        return y_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI, down_RI, up_OR, scaled_NR = ctx.saved_tensors
        grad_NO = grad.reshape(-1, grad.shape[-1])
        grad_NR = _scaled_product(grad_NO, up_OR, ctx.scale)
        grad_x = grad_down = grad_up = None
        if ctx.needs_input_grad[0]:
            grad_x = _linear(grad_NO, weight_OI.t(), None).addmm_(grad_NR, down_RI).view(ctx.shape)
        if ctx.needs_input_grad[3]:
            grad_down = torch.mm(grad_NR.t(), x.reshape(-1, x.shape[-1])).to(ctx.master_dtype)
        if ctx.needs_input_grad[4]:
            grad_up = torch.mm(scaled_NR.t(), grad_NO).t().to(ctx.master_dtype)  # quicker this way round
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


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias_O: Tensor | None, *where: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.where = x.shape, where
        return F.conv2d(x, weight, bias_O, *where)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        grad_x = conv2d_input(ctx.shape, weight, grad, *ctx.where) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, None, None, None


def frozen_conv2d(x: Tensor, weight: Tensor, bias_O: Tensor | None, like: nn.Conv2d) -> Tensor:
    """A convolution without groups whose weight gets no gradient, for which x is not kept.

    Args:
        x: (B, I, h, w).
        weight: (O, I, kh, kw), in x's type.
        like: its stride, padding and dilation hold.
    """
    result: Tensor = _FrozenConvolution.apply(x, weight, bias_O, like.stride, like.padding, like.dilation)
    return result


def _linear(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """F.linear; on the CPU in fp32 through oneDNN, since MKL, PyTorch's choice there, is far slower on AMD's processors."""
    if x_NI.device.type == "cpu" and x_NI.dtype == torch.float32 and ONEDNN_LINEAR is not None:
        return ONEDNN_LINEAR(x_NI, weight_OI, bias_O, "none", [], "")
    return F.linear(x_NI, weight_OI, bias_O)


def _scaled_product(a_NK: Tensor, b_KM: Tensor, scale: float) -> Tensor:
    """scale · a b in one product."""
    return torch.addmm(a_NK.new_empty(()), a_NK, b_KM, beta=0, alpha=scale)
