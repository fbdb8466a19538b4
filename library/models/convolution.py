"""3x3 convolutions of few pixels in bf16 on a CPU, as one product with the weights as they lie in memory.

The lowest levels of a UNet have 1280 channels and a few dozen pixels: reading the weights is all of the work, and the
library's convolution reads and writes them once more to rearrange them.

Letters: B samples, I and O channels, h w size, N = B h w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MOST_PIXELS = 64
"""Of a picture of latents; above it the library's convolution is faster."""


class _SmallConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BIhw: Tensor, weight_O33I: Tensor, bias_O: Tensor | None) -> Tensor:
        B, I, h, w = x_BIhw.shape  # noqa: E741
        padded = F.pad(x_BIhw.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()
        rows, columns = padded.stride(1), padded.stride(2)
        windows = padded.as_strided((B, h, w, 3, 3 * I), (padded.stride(0), rows, columns, rows, 1))
        y_NO = F.linear(windows.reshape(-1, 9 * I), weight_O33I.flatten(1), bias_O)
        ctx.save_for_backward(weight_O33I)
        return y_NO.view(B, h, w, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BOhw: Tensor) -> tuple[Tensor | None, ...]:
        (weight_O33I,) = ctx.saved_tensors
        B, O, h, w = grad_BOhw.shape  # noqa: E741
        grad_NO = grad_BOhw.permute(0, 2, 3, 1).reshape(-1, O)
        windows = torch.mm(grad_NO, weight_O33I.flatten(1)).view(B, h, w, 3, 3, -1)
        sums = torch.promote_types(windows.dtype, torch.float32)
        padded = windows.new_zeros(B, h + 2, w + 2, windows.shape[-1], dtype=sums)
        for dy, row in enumerate(windows.unbind(3)):
            for dx, window_BhwI in enumerate(row.unbind(3)):
                padded[:, dy : dy + h, dx : dx + w].add_(window_BhwI)
        return padded[:, 1:-1, 1:-1].permute(0, 3, 1, 2).to(grad_BOhw.dtype), None, None


def small_convolution(x_BIhw: Tensor, weight_OI33: Tensor, bias_O: Tensor | None) -> Tensor:
    """(B, O, h, w), channels last: a 3x3 convolution of stride 1 and padding 1 with a frozen weight, channels last too."""
    result: Tensor = _SmallConvolution.apply(x_BIhw, weight_OI33.permute(0, 2, 3, 1), bias_O)
    return result


def speed_up_small(model: nn.Module) -> None:
    """Let a model's frozen 3x3 convolutions of few pixels be computed so, on a CPU."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _suits(module):
            module.forward = _forward_of(module)  # type: ignore[method-assign]


def _suits(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.padding_mode == "zeros"
    )


def _forward_of(conv: nn.Conv2d) -> Any:
    def forward(x_BIhw: Tensor) -> Tensor:
        if x_BIhw.shape[-2] * x_BIhw.shape[-1] > MOST_PIXELS:
            return nn.Conv2d.forward(conv, x_BIhw)
        return small_convolution(x_BIhw, conv.weight, conv.bias)

    return forward
