"""Memory that is counted without weights, against sums by hand and against tensors on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from library.models.live_memory import LiveMemory, OneDnn, fused_attention

META = torch.device("meta")


def test_what_nobody_holds_is_not_counted() -> None:
    with LiveMemory() as memory:
        kept = torch.empty(100, device=META)
        passing = torch.empty(1000, device=META)
        window = passing[10:20]
        del passing
        assert memory.live == 4400, "a window holds all of its memory"
        del window
        assert memory.live == kept.nbytes == 400
    assert memory.peak == 4400
    memory.restart()
    assert memory.peak == 400


def test_memory_is_rounded_as_the_allocator_rounds() -> None:
    with LiveMemory(block=512) as memory:
        held = torch.empty(1, device=META), torch.empty(129, device=META)
    assert memory.live == 512 + 1024
    del held


def test_tensors_made_outside_are_counted_once() -> None:
    weight = torch.empty(8, 8, device=META)
    memory = LiveMemory()
    assert memory.hold([weight, weight.t()]) == 256
    with memory:
        product = weight.t() @ weight
    assert memory.live == 512
    del product


def test_a_backward_pass_holds_what_it_needs() -> None:
    """y = relu(x W): kept are x W's relu for its own gradient, and nothing of the product, whose weight is frozen."""
    weight = torch.empty(64, 64, device=META)
    x = torch.empty(16, 64, device=META, requires_grad=True)
    memory = LiveMemory()
    memory.hold([weight, x])
    before = memory.live
    with memory:
        y = (x @ weight).relu()
        assert memory.live - before == 16 * 64 * 4
        y.sum().backward()
    del y
    assert memory.live - before == 16 * 64 * 4, "the gradient of x"


def test_meta_counts_as_the_cpu_does() -> None:
    """The same block, forwards and backwards, on both devices."""

    def peak(device: str) -> int:
        block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, device=device)
        x = torch.zeros(2, 10, 32, device=device)
        memory = LiveMemory(device=device)
        memory.hold([*block.parameters(), x])
        before = memory.live
        with memory:
            block.norm1(x + F.gelu(block.linear2(F.gelu(block.linear1(x))))).square().mean().backward()
        return memory.peak - before

    assert peak("meta") == peak("cpu") > 0


@pytest.mark.parametrize("causal", [False, True])
def test_attention_keeps_no_matrix_of_queries_and_keys(causal: bool) -> None:
    B, heads, T, C = 1, 2, 256, 8
    query, key, value = (torch.zeros(B, heads, T, C, device=META, requires_grad=True) for _ in range(3))
    former = F.scaled_dot_product_attention
    memory = LiveMemory()
    with fused_attention(), memory:
        output = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        assert memory.live == output.nbytes + B * heads * T * 4, "the output, and a number for each query"
        output.sum().backward()
    assert memory.peak < B * heads * T * T * 4
    assert former is F.scaled_dot_product_attention


def test_a_run_without_numbers_finds_nothing_wrong() -> None:
    with LiveMemory():
        values = torch.empty(2, 3, device=META)
        assert bool(values.isfinite().all())
        assert not bool((~values.isfinite().flatten(1).all(dim=1)).any())


def test_a_convolution_on_a_cpu_works_on_copies() -> None:
    products = OneDnn()
    with LiveMemory(workspace=products.workspace) as memory:
        x, weight = torch.empty(1, 4, 8, 8, device=META), torch.empty(6, 4, 3, 3, device=META)
        y = F.conv2d(x, weight, padding=1)
        tensors = x.nbytes + weight.nbytes + y.nbytes
        assert memory.live == tensors
        assert memory.peak == 2 * tensors
        F.conv2d(x, weight, padding=1)
    assert products.kernels == 1, "the same product is compiled once"
