"""The compiled attention against the formula in fp64."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from library.kernels import build
from library.kernels.attention import Shape, compiled_attention, suits
from library.kernels.build import library

needs_kernel = pytest.mark.skipif(library() is None, reason="for processors with AVX512-BF16, where a C compiler is")

# samples, queries, keys, heads, width: SD 1.5's levels, cross-attention, odd sizes, several blocks and spans, one wide head
SIZES = [(1, 1024, 1024, 2, 40), (1, 300, 77, 8, 80), (2, 16, 77, 4, 160), (3, 7, 5, 2, 2), (1, 1100, 600, 1, 64), (1, 65, 513, 1, 512)]  # fmt: skip


def formula(q, k, v, heads):
    split = [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / math.sqrt(split[0].shape[-1])
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)


def draw(samples, queries, keys, heads, width, spread=1.0):
    generator = torch.Generator().manual_seed(queries)
    shapes = [(samples, tokens, heads * width) for tokens in (queries, keys, keys)]
    return [(torch.randn(shape, generator=generator) * spread).bfloat16().requires_grad_() for shape in shapes]


def distance(one, exact):
    return (one.double() - exact).norm() / exact.norm()


@needs_kernel
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_output_and_gradients(size, spread):
    inputs, heads = draw(*size, spread=spread), size[3]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    out, expected = compiled_attention(*inputs, heads), formula(*exact, heads)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = torch.autograd.grad(out, inputs, grad)
    assert distance(out, expected) < 0.005
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, exact, grad.double())):
        assert distance(mine, theirs) < 0.01 * spread


@needs_kernel
def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    inputs = draw(2, 200, 130, 4, 40)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out = compiled_attention(*inputs, 4)
        found.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@needs_kernel
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_broken_value_is_not_hidden(which, broken):
    inputs = [each.detach().clone() for each in draw(1, 70, 70, 2, 16)]
    inputs[which][0, 3, 5] = broken
    out = compiled_attention(*inputs, 2)
    assert not out[..., :16].isfinite().all()
    assert out[..., 16:].isfinite().all()


def test_what_it_suits(monkeypatch):
    monkeypatch.setattr(build, "library", lambda: object())
    assert suits(torch.empty(1, 5, 64, dtype=torch.bfloat16), heads=4)
    assert not suits(torch.empty(1, 5, 64), heads=4)
    assert not suits(torch.empty(1, 5, 60, dtype=torch.bfloat16), heads=4), "the width of a head must be even"
    assert not suits(torch.empty(1, 5, 64, dtype=torch.bfloat16, device="meta"), heads=4)


@needs_kernel
@pytest.mark.parametrize("wrong", [{"dtype": torch.float32}, {"size": (2, 9, 16)}, {"size": (1, 9, 8)}])
def test_tensors_that_do_not_belong_together_are_not_read(wrong):
    q = torch.zeros(1, 9, 16, dtype=torch.bfloat16)
    other = torch.zeros(wrong.get("size", (1, 9, 16)), dtype=wrong.get("dtype", torch.bfloat16))
    with pytest.raises(AssertionError):
        compiled_attention(q, other, other, 2)


def test_the_structure_has_the_kernels_layout():
    assert ctypes.sizeof(Shape) == 48
