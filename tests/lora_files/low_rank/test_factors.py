"""Low-rank changes against dense matrices in double precision."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from library.core.errors import UserError
from library.lora_files.low_rank.factors import Factors, decomposed, factors_in_file, joined


def random_factors(outputs=12, inputs=9, rank=4, seed=0, kernel=()):
    draw = torch.Generator().manual_seed(seed)
    columns = inputs * (kernel[0] * kernel[1] if kernel else 1)
    return Factors(
        torch.randn(outputs, rank, generator=draw),
        torch.randn(rank, columns, generator=draw),
        (outputs, inputs, *kernel),
    )


@pytest.mark.parametrize("sizes", [(12, 9, 4), (5, 30, 5), (6, 7, 11)], ids=str)
def test_singular_values_are_those_of_the_product(sizes):
    factors = random_factors(*sizes)
    found = decomposed(factors)
    expected = torch.linalg.svdvals(factors.dense().double())
    torch.testing.assert_close(
        found.values_R[: len(expected)].double(), expected[: len(found.values_R)], rtol=1e-4, atol=1e-4
    )
    assert found.energy == pytest.approx(float(expected.square().sum()), rel=1e-4)
    torch.testing.assert_close(found.truncated(len(found.values_R)).dense(), factors.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_cutting_off_loses_the_values_cut_off(rank):
    factors = random_factors()
    found = decomposed(factors)
    lost = (found.truncated(rank).dense() - factors.dense()).double().norm()
    values = torch.linalg.svdvals(factors.dense().double())
    assert float(lost) == pytest.approx(float(values[rank:].norm()), rel=1e-4, abs=1e-5)
    assert found.kept(rank) == pytest.approx(float(values[:rank].square().sum()), rel=1e-4)


def test_joined_is_the_sum():
    parts = [random_factors(rank=rank, seed=rank) for rank in (1, 3, 5)]
    whole = joined(parts)
    assert whole.rank == 9
    torch.testing.assert_close(whole.dense(), sum(part.dense() for part in parts))


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3)], ids=str)
def test_tensors_in_a_file_make_the_change(kernel):
    """Against the two layers one after the other, as a network runs them."""
    factors = random_factors(kernel=kernel)
    tensors = factors.tensors(alpha=8.0, dtype=torch.float32)
    draw = torch.Generator().manual_seed(5)
    if kernel:
        x = torch.randn(2, 9, 6, 6, generator=draw)
        inner = F.conv2d(x, tensors["lora_down.weight"], padding=kernel[0] // 2)
        expected = F.conv2d(inner, tensors["lora_up.weight"]) * (8 / 4)
        acting = F.conv2d(x, factors.dense(), padding=kernel[0] // 2)
    else:
        x = torch.randn(2, 9, generator=draw)
        expected = F.linear(F.linear(x, tensors["lora_down.weight"]), tensors["lora_up.weight"]) * (8 / 4)
        acting = F.linear(x, factors.dense())
    torch.testing.assert_close(acting, expected, rtol=1e-4, atol=1e-4)
    again = factors_in_file(tensors)
    assert again is not None and again.weight_shape == factors.weight_shape
    torch.testing.assert_close(again.dense(), factors.dense(), rtol=1e-5, atol=1e-5)


def test_without_alpha_the_scale_is_one():
    tensors = random_factors().tensors(alpha=4.0, dtype=torch.float32)
    with_alpha = factors_in_file(tensors)
    del tensors["alpha"]
    assert torch.equal(factors_in_file(tensors).dense(), with_alpha.dense())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lora_up.weight": None}, "is missing"),
        ({"lora_up.weight": torch.ones(12, 3)}, "do not fit together"),
        ({"lora_down.weight": torch.ones(9)}, "do not fit together"),
        ({"lora_up.weight": torch.full((12, 4), torch.nan)}, "not finite"),
        ({"alpha": torch.ones(2)}, "not one finite number"),
        ({"alpha": torch.tensor(torch.inf)}, "alpha is not one finite number"),
        ({"lora_down.weight": torch.ones(0, 9), "lora_up.weight": torch.ones(12, 0)}, "do not fit together"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_together_is_told(changed, told):
    tensors = {**random_factors().tensors(4.0, torch.float32), **changed}
    with pytest.raises(ValueError, match=told):
        factors_in_file({name: tensor for name, tensor in tensors.items() if tensor is not None})


def test_other_kinds_are_not_taken_for_a_lora():
    tensors = random_factors().tensors(4.0, torch.float32)
    assert factors_in_file({**tensors, "dora_scale": torch.ones(12, 1)}) is None
    assert factors_in_file({"hada_w1_a": torch.ones(2, 2)}) is None


def test_values_too_large_for_the_type_are_told():
    factors = Factors(torch.full((2, 1), 1e6), torch.ones(1, 3), (2, 3))
    with pytest.raises(UserError, match="float16: give --dtype fp32"):
        factors.tensors(1.0, torch.float16)
