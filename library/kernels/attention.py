"""Attention by our kernel for CPUs.

Letters: B samples, H heads, T queries, S keys, D width of a head.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from library.kernels.build import are_for, call


class Shape(ctypes.Structure):
    """The `Shape` of attention.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "heads", "T", "S", "D")] + [("scale", ctypes.c_float)]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BTC: Tensor, k_BSC: Tensor, v_BSC: Tensor, heads: int) -> Tensor:
        assert q_BTC.dtype == k_BSC.dtype == v_BSC.dtype == torch.bfloat16
        assert (
            k_BSC.shape == v_BSC.shape == (len(q_BTC), k_BSC.shape[1], q_BTC.shape[-1]) and q_BTC.shape[-1] % heads == 0
        )
        q, k, v = q_BTC.contiguous(), k_BSC.contiguous(), v_BSC.contiguous()
        out, lse_BHT = torch.empty_like(q), q.new_empty(q.shape[0], heads, q.shape[1], dtype=torch.float32)
        call("attention_forward", _shape(q, k, heads), q, k, v, out, lse_BHT)
        ctx.save_for_backward(q, k, v, out, lse_BHT)
        ctx.heads = heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse_BHT = ctx.saved_tensors
        grads = [torch.empty_like(each) for each in (q, k, v)]
        shape = _shape(q, k, ctx.heads)
        call("attention_backward", shape, q, k, v, out, grad_BTC.contiguous(), lse_BHT, *grads)
        return *grads, None


def compiled_attention(q_BTC: Tensor, k_BSC: Tensor, v_BSC: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v for each head, (B, T, C) in bf16, with C = H D.

    Args:
        q_BTC, k_BSC, v_BSC: bf16, on the CPU.
    """
    result: Tensor = _Attention.apply(q_BTC, k_BSC, v_BSC, heads)
    return result


def suits(q_BTC: Tensor, heads: int) -> bool:
    """Whether the kernel can be used for such queries here."""
    return q_BTC.dtype == torch.bfloat16 and q_BTC.shape[-1] // heads % 2 == 0 and are_for(q_BTC)


def _shape(q_BTC: Tensor, k_BSC: Tensor, heads: int) -> Shape:
    B, T, C = q_BTC.shape
    return Shape(B, heads, T, k_BSC.shape[1], C // heads, 1 / math.sqrt(C // heads))
