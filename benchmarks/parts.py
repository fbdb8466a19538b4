"""Our parts of a CPU step against PyTorch's, one by one, in turns: attention, small convolutions, fp32 products.

    python -m benchmarks.parts

On Stable Diffusion 1.5's sizes at batch 1. Printed: PyTorch's time divided by ours, the median of the turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from library.core.runtime import available_cores, keep_freed_memory
from library.kernels.attention import compiled_attention
from library.kernels.build import library
from library.kernels.convolution import convolution_as_product
from networks.arithmetic.low_rank import low_rank_linear

TURNS = 9
ATTENTION = [(4096, 4096, 40), (4096, 77, 40), (1024, 1024, 40), (1024, 77, 40), (256, 256, 80), (256, 77, 80), (64, 64, 160)]  # fmt: skip
"""Queries, keys, width of each of the eight heads."""
CONVOLUTIONS = [(1280, 1280, 4), (2560, 1280, 4), (640, 1280, 8), (1280, 1280, 8), (2560, 1280, 8)]
"""Channels in and out, side."""
PRODUCTS = [(1024, 320, 320), (1024, 320, 2560), (256, 640, 640), (64, 1280, 1280), (64, 1280, 10240), (16, 1280, 1280)]
"""Rows, inputs, outputs."""

Pair = dict[str, Callable[[], Tensor]]


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(available_cores())
    if library() is not None:
        for size in ATTENTION:
            compare(f"attention {size}", *attention(*size))
        for size in CONVOLUTIONS:
            compare(f"convolution {size}", *convolution(*size))
    for rows, inputs, outputs in PRODUCTS:
        for dtype in (torch.bfloat16, torch.float32):
            name = f"{str(dtype).removeprefix('torch.')} layer with LoRA {(rows, inputs, outputs)}"
            compare(name, *product(rows, inputs, outputs, dtype))


def attention(queries: int, keys: int, width: int) -> tuple[Pair, list[Tensor]]:
    """Ours and the fused kernel, from and to (1, tokens, channels)."""
    q, k, v = (torch.randn(1, n, 8 * width).bfloat16().requires_grad_() for n in (queries, keys, keys))

    def theirs() -> Tensor:
        split = [each.unflatten(-1, (8, -1)).transpose(1, 2) for each in (q, k, v)]
        return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    return {"theirs": theirs, "ours": lambda: compiled_attention(q, k, v, 8)}, [q, k, v]


def convolution(channels_in: int, channels_out: int, side: int) -> tuple[Pair, list[Tensor]]:
    """3x3, bf16, channels last. Several weights, since a model's do not stay in the processor's cache."""
    shape = (channels_out, channels_in, 3, 3)
    weights = [torch.randn(shape).bfloat16().contiguous(memory_format=torch.channels_last) for _ in range(4)]
    x = (
        torch.randn(1, channels_in, side, side)
        .bfloat16()
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )

    def all_of(one: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([one(weight) for weight in weights])

    return {
        "theirs": lambda: all_of(lambda weight: F.conv2d(x, weight, padding=1)),
        "ours": lambda: all_of(lambda weight: convolution_as_product(x, weight, None)),
    }, [x]


def product(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> tuple[Pair, list[Tensor]]:
    """Frozen layers with one LoRA of rank 32. Several weights, for the same reason."""
    x = torch.randn(rows, inputs).to(dtype).requires_grad_()
    weights = [torch.randn(outputs, inputs).to(dtype) for _ in range(4)]
    down, up = torch.randn(32, inputs).requires_grad_(), torch.randn(outputs, 32).requires_grad_()

    def plain(weight: Tensor) -> Tensor:
        return F.linear(x, weight) + F.linear(F.linear(x, down.to(dtype)), up.to(dtype)) * 0.5

    return {
        "theirs": lambda: torch.stack([plain(weight) for weight in weights]),
        "ours": lambda: torch.stack([low_rank_linear(x, weight, None, down, up, 0.5) for weight in weights]),
    }, [x, down, up]


def compare(name: str, sides: Pair, inputs: list[Tensor]) -> None:
    """Forward and backward passes of both, in turns."""
    grad = torch.ones_like(sides["theirs"]())
    forward: list[float] = []
    both: list[float] = []
    for _ in range(TURNS):
        seconds: dict[str, tuple[float, float]] = {}
        for side, compute in sides.items():
            started = time.perf_counter()
            result = compute()
            half = time.perf_counter()
            torch.autograd.grad(result, inputs, grad)
            seconds[side] = (half - started, time.perf_counter() - started)
        forward.append(seconds["theirs"][0] / seconds["ours"][0])
        both.append(seconds["theirs"][1] / seconds["ours"][1])
    forward_ratio, ratio = statistics.median(forward), statistics.median(both)
    print(f"{name:<44} forward {forward_ratio:5.2f}   forward and backward {ratio:5.2f}", flush=True)


if __name__ == "__main__":
    main()
