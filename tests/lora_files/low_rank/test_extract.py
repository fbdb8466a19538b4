"""Differences of weights as low-rank changes."""

from __future__ import annotations

import pytest
import torch

from library.lora_files.low_rank.extract import clamped, decomposed_difference
from library.lora_files.low_rank.factors import Factors


@pytest.fixture
def difference():
    """(O, I) = (600, 700), singular values 1, 0.97, 0.97², ..."""
    draw = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(600, 600, generator=draw, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(700, 600, generator=draw, dtype=torch.float64))[0]
    return left @ torch.diag(0.97 ** torch.arange(600, dtype=torch.float64)) @ right.T


def test_large_matrices_lose_what_the_best_approximation_loses(difference):
    found = decomposed_difference(difference.float(), rank=16)
    values = 0.97 ** torch.arange(600, dtype=torch.float64)
    torch.testing.assert_close(found.values_R.double(), values[:16], rtol=1e-4, atol=0)
    lost = (found.truncated(16).dense().double() - difference).norm()
    assert float(lost) == pytest.approx(float(values[16:].norm()), rel=1e-4)
    assert found.energy == pytest.approx(float(values.square().sum()), rel=1e-5)


def test_is_the_same_every_time_and_draws_nothing_from_the_process(difference):
    state = torch.get_rng_state()
    first = decomposed_difference(difference.float(), rank=8)
    torch.manual_seed(77)
    second = decomposed_difference(difference.float(), rank=8)
    assert torch.equal(first.left_OR, second.left_OR)
    torch.set_rng_state(state)
    decomposed_difference(difference.float(), rank=8)
    assert torch.equal(torch.get_rng_state(), state)


def test_convolutions_keep_their_kernel():
    difference = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(1))
    found = decomposed_difference(difference, rank=6)
    torch.testing.assert_close(found.truncated(6).dense(), difference, rtol=1e-4, atol=1e-5)


def test_clamping_limits_the_values():
    draw = torch.Generator().manual_seed(2)
    factors = Factors(torch.randn(50, 4, generator=draw), torch.randn(4, 30, generator=draw), (50, 30))
    limit = torch.quantile(torch.cat([factors.up_OR.flatten(), factors.down_RN.flatten()]), 0.9)
    found = clamped(factors, 0.9)
    torch.testing.assert_close(found.up_OR, factors.up_OR.clamp(-limit, limit))
    torch.testing.assert_close(found.down_RN, factors.down_RN.clamp(-limit, limit))
    assert clamped(factors, 1.0) is factors
