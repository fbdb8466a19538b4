"""Convolutions with frozen weights: their input is not kept for the backward pass, as PyTorch's own keep it.

On a CPU the small ones, 3x3 of few pixels and 1x1, are one product with the weights as they lie in memory. The lowest
levels of a UNet have 1280 channels and a few dozen pixels: reading the weights is all of the work, and the library's convolution
reads and writes them once more to rearrange them.

Letters: B samples, I and O channels, h w size, N = B h w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from library.kernels.build import are_for
from library.kernels.matmul import sum_of_products

MOST_PIXELS = 64
"""Of a picture of latents, for 3x3; above it the library's convolution is faster."""


class Conv2d(nn.Conv2d):
    """A convolution without groups, with zeros around the picture, which keeps nothing for a weight that is frozen.

    Has PyTorch's name, since networks of others choose the modules they act on by the names of their classes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, O, h', w') of (B, I, h, w)."""
        if any(each.requires_grad for each in self.parameters(recurse=False)):
            return super().forward(x)
        return frozen_conv2d(x, self.weight, self.bias, self)


def freeze_convolutions(model: nn.Module) -> None:
    """Let a frozen model's convolutions keep less for the backward pass."""
    for module in model.modules():
        if type(module) is nn.Conv2d and module.groups == 1 and module.padding_mode == "zeros":
            module.__class__ = Conv2d


def frozen_conv2d(x: Tensor, weight: Tensor, bias_O: Tensor | None, like: nn.Conv2d) -> Tensor:
    """A convolution without groups whose weight gets no gradient, for which x is not kept.

    Args:
        x: (B, I, h, w).
        weight: (O, I, kh, kw), in x's type.
        like: its stride, padding and dilation hold.
    """
    if _is_quicker_as_product(x, weight, like):
        return convolution_as_product(x, weight, bias_O)
    result: Tensor = _FrozenConvolution.apply(x, weight, bias_O, like.stride, like.padding, like.dilation)
    return result


def convolution_as_product(x_BIhw: Tensor, weight_OIkk: Tensor, bias_O: Tensor | None) -> Tensor:
    """(B, O, h, w): a 3x3 or 1x1 convolution of stride 1 that keeps the size, all channels last in memory; where `are_for` holds."""
    B, _, h, w = x_BIhw.shape
    y_NO: Tensor = _ConvolutionAsProduct.apply(x_BIhw, weight_OIkk.permute(0, 2, 3, 1), bias_O)
    return y_NO.view(B, h, w, -1).permute(0, 3, 1, 2)


def _is_quicker_as_product(x: Tensor, weight: Tensor, like: nn.Conv2d) -> bool:
    if not are_for(x) or (like.stride, like.dilation) != ((1, 1), (1, 1)):
        return False
    if weight.shape[2:] == (1, 1):
        return like.padding == (0, 0)
    return weight.shape[2:] == (3, 3) and like.padding == (1, 1) and x.shape[-2] * x.shape[-1] <= MOST_PIXELS


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


class _ConvolutionAsProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BIhw: Tensor, weight_OkkI: Tensor, bias_O: Tensor | None) -> Tensor:
        B, _, h, w = x_BIhw.shape
        windows_NK = _windows(x_BIhw) if weight_OkkI.shape[1] == 3 else x_BIhw.permute(0, 2, 3, 1)
        y_NO = sum_of_products((windows_NK.reshape(B * h * w, -1), weight_OkkI.flatten(1).t()), bias_M=bias_O)
        ctx.save_for_backward(weight_OkkI)
        ctx.size = B, h, w
        return y_NO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        (weight_OkkI,) = ctx.saved_tensors
        windows = sum_of_products((grad_NO, weight_OkkI.flatten(1))).view(*ctx.size, *weight_OkkI.shape[1:])
        grad_BhwI = _sum_of_windows(windows) if weight_OkkI.shape[1] == 3 else windows[:, :, :, 0, 0]
        return grad_BhwI.permute(0, 3, 1, 2), None, None


def _windows(x_BIhw: Tensor) -> Tensor:
    """(B, h, w, 3, 3 I): around each pixel, zeros outside."""
    B, I, h, w = x_BIhw.shape  # noqa: E741
    padded = F.pad(x_BIhw.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
    rows, columns = padded.stride(1), padded.stride(2)
    return padded.as_strided((B, h, w, 3, 3 * I), (padded.stride(0), rows, columns, rows, 1))


def _sum_of_windows(windows_Bhw33I: Tensor) -> Tensor:
    """(B, h, w, I): each pixel's share of all windows it is in, summed in fp32 at least."""
    B, h, w, _, _, I = windows_Bhw33I.shape  # noqa: E741
    dtype = torch.promote_types(windows_Bhw33I.dtype, torch.float32)
    padded = windows_Bhw33I.new_zeros(B, h + 2, w + 2, I, dtype=dtype)
    for dy, row in enumerate(windows_Bhw33I.unbind(3)):
        for dx, window_BhwI in enumerate(row.unbind(3)):
            padded[:, dy : dy + h, dx : dx + w].add_(window_BhwI)
    return padded[:, 1:-1, 1:-1].to(windows_Bhw33I.dtype)
