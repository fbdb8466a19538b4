"""Sums of products against fp64, at sizes that fill tiles and pieces and at those that do not."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from library.kernels.build import library
from library.kernels.matmul import Factors, Product, sum_of_products

needs_kernel = pytest.mark.skipif(library() is None, reason="for processors with AVX512-BF16, where a C compiler is")

# rows, columns, and what is summed over: whole tiles, none whole, odd everywhere, several pieces, the narrowest
SIZES = [
    (64, 128, 256),
    (16, 1280, 130),
    (5, 17, 33),
    (77, 320, 768),
    (300, 70, 1300),
    (1, 1, 1),
    (9, 200, 129),
    (1024, 32, 64),
]


def draw(*shape, seed=0, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def of_either_order(b, transposed):
    """The same matrix with contiguous rows or contiguous columns."""
    return b.t().contiguous().t() if transposed else b


@needs_kernel
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_sum_of_two_products(size, transposed, dtype):
    N, M, K = size
    shapes = (N, K), (K, M), (N, 31), (31, M), (M,)
    a, b, c, d, bias = (draw(*shape, seed=seed, dtype=dtype) for seed, shape in enumerate(shapes))
    exact = 0.5 * (a.double() @ b.double() + c.double() @ d.double()) + bias.double()
    factors = (a, of_either_order(b, transposed)), (c, of_either_order(d, not transposed))
    in_fp32 = sum_of_products(*factors, bias_M=bias, scale=0.5, dtype=torch.float32)
    assert (in_fp32 - exact).norm() < 1e-6 * math.sqrt(K) * exact.norm()
    assert torch.equal(sum_of_products(*factors, bias_M=bias, scale=0.5), in_fp32.to(dtype))


@needs_kernel
def test_matrices_that_do_not_lie_contiguous():
    a, b = draw(40, 60)[:, ::2], draw(90, 50)[::3, ::2]
    exact = a.double() @ b.double()
    assert (sum_of_products((a, b), dtype=torch.float32) - exact).norm() < 1e-6 * exact.norm()
    assert (
        sum_of_products((draw(30, 40).t(), b), dtype=torch.float32) - draw(30, 40).t().double() @ b.double()
    ).norm() < 1e-3


@needs_kernel
def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    a, b = draw(300, 200), draw(200, 330, seed=1)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(sum_of_products((a, b), dtype=torch.float32))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needs_kernel
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_value_stays_in_its_row_or_column(broken):
    a, b = draw(70, 33), draw(33, 70, seed=1)
    a[3, 32] = b[32, 5] = broken
    finite = sum_of_products((a, b)).isfinite()
    expected = torch.ones(70, 70, dtype=torch.bool)
    expected[3], expected[:, 5] = False, False
    assert torch.equal(finite, expected)


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_nothing_is_read_beyond_the_matrices(dtype):
    """What lies behind them in memory is no number."""
    around = torch.full((4, 200), math.nan, dtype=dtype)
    around[:3, :33] = draw(3, 33)
    a, b = around[:3, :33], draw(70, 33, dtype=dtype)
    behind = torch.cat([b.flatten(), torch.full((64,), math.nan, dtype=dtype)])
    for factor in (behind[: b.numel()].view(70, 33).t(), behind[: b.numel()].view(33, 70)):
        exact = a.double() @ factor.double()
        assert (sum_of_products((a, factor), dtype=torch.float32) - exact).norm() < 1e-5 * exact.norm()


def test_the_structures_have_the_kernels_layout():
    assert (ctypes.sizeof(Factors), ctypes.sizeof(Product)) == (48, 152)


@needs_kernel
@pytest.mark.parametrize(
    ("a", "b", "bias"),
    [
        (draw(2, 4), draw(4, 3, dtype=torch.float32), None),
        (draw(2, 4), draw(4, 3), torch.zeros(3)),
        (draw(2, 4), draw(6, 3), None),
        (draw(2, 4), draw(4, 3), draw(2)),
    ],
)
def test_matrices_that_do_not_belong_together_are_not_read(a, b, bias):
    with pytest.raises(AssertionError):
        sum_of_products((a, b), bias_M=bias)


@needs_kernel
@pytest.mark.parametrize("size", [(0, 4, 3), (2, 4, 0)])
def test_nothing_is_a_matrix_too(size):
    N, K, M = size
    assert sum_of_products((draw(N, K), draw(K, M))).shape == (N, M)
