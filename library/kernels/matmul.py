"""Products of matrices by our kernel for CPUs: sums of products in one, rounded once.

Letters: N rows, M columns, K what is summed over.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from library.kernels.build import TYPES, call

MOST = 2
"""Products in a sum."""


class Factors(ctypes.Structure):
    """The `Factors` of matmul.c."""

    _fields_ = [("A", ctypes.c_void_p), ("B", ctypes.c_void_p)] + [
        (name, ctypes.c_int64) for name in ("K", "a_row", "b_k", "b_m")
    ]


class Product(ctypes.Structure):
    """The `Product` of matmul.c."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("N", "M", "count")),
        ("factors", Factors * MOST),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("type_of_out", ctypes.c_int32),
        ("scale", ctypes.c_float),
    ]


def sum_of_products(
    *factors: tuple[Tensor, Tensor],
    bias_M: Tensor | None = None,
    scale: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """scale · Σ a b + bias, (N, M).

    Args:
        factors: a (N, K) and b (K, M), one or two; K may differ between them. All tensors are on the CPU and of one type, bf16 or
            fp32.
        dtype: of the result, bf16 or fp32; None: that of the factors.
    """
    given, (N, M) = factors[0][0].dtype, (len(factors[0][0]), factors[0][1].shape[1])
    for a_NK, b_KM in factors:
        assert a_NK.dtype == b_KM.dtype == given and a_NK.shape == (N, len(b_KM)) and b_KM.shape == (len(b_KM), M)
    assert bias_M is None or (bias_M.dtype, bias_M.shape) == (given, (M,))
    rows = [_in_whole_words(a_NK) for a_NK, _ in factors]
    columns = [b_KM if 1 in b_KM.stride() else b_KM.contiguous() for _, b_KM in factors]
    out_NM = rows[0].new_empty(N, M, dtype=dtype or given)
    if not out_NM.numel():
        return out_NM
    described = [_described(a_NK, b_KM) for a_NK, b_KM in zip(rows, columns)]
    bias = None if bias_M is None else bias_M.contiguous()
    product = Product(
        N,
        M,
        len(described),
        (Factors * MOST)(*described),
        None if bias is None else bias.data_ptr(),
        out_NM.data_ptr(),
        TYPES[given],
        TYPES[out_NM.dtype],
        scale,
    )
    call("matmul", product)
    return out_NM


def _described(a_NK: Tensor, b_KM: Tensor) -> Factors:
    return Factors(a_NK.data_ptr(), b_KM.data_ptr(), len(b_KM), a_NK.stride(0), *b_KM.stride())


def _in_whole_words(a_NK: Tensor) -> Tensor:
    """The matrix with contiguous rows, in bf16 of an even length; what is added is zero."""
    if a_NK.dtype == torch.float32 or a_NK.shape[1] % 2 == 0:
        return a_NK.contiguous()
    even = a_NK.new_zeros(a_NK.shape[0], a_NK.shape[1] + 1)
    even[:, :-1] = a_NK
    return even
