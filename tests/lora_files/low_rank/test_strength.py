"""Norms and singular values from the factors, against the dense change."""

from __future__ import annotations

import pytest
import torch

from library.lora_files.inspect import energy_by_rank, rank_for
from library.lora_files.low_rank.strength import energies_of, strength_of


def drawn(*shapes):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draw) for shape in shapes]


@pytest.mark.parametrize("shapes", [((40, 6), (6, 30)), ((5, 8), (8, 30)), ((40, 6), (6, 4))])
@pytest.mark.parametrize("used", [1.0, 0.0])
def test_singular_values_without_the_dense_change(shapes, used):
    """`used` 0: half of the directions change nothing, as in a LoRA that needs less than its rank."""
    up, down = drawn(*shapes)
    up[:, up.shape[1] // 2 :] *= used
    expected = torch.linalg.svdvals(up.double() @ down.double()).square()
    found = energies_of(up, down)
    count = min(len(expected), len(found))
    torch.testing.assert_close(found[:count], expected[:count], rtol=1e-5, atol=1e-5 * float(expected[0]))
    assert float(found[count:].sum() + expected[count:].sum()) <= 1e-5 * float(expected[0])


def test_norms_of_each_kind():
    alpha = torch.tensor(3.0)
    up, down = drawn((8, 2, 1, 1), (2, 5, 3, 3))
    lora = strength_of({"lora_up.weight": up, "lora_down.weight": down, "alpha": alpha})
    assert lora.norm == pytest.approx(float(torch.einsum("orxy,rihw->oihw", up, down).norm()) * 1.5, rel=1e-5)
    assert (lora.rank, lora.alpha) == (2, 3.0)
    w1_a, w1_b, w2_a, w2_b = drawn((8, 2), (2, 12), (8, 2), (2, 12))
    loha = strength_of({"hada_w1_a": w1_a, "hada_w1_b": w1_b, "hada_w2_a": w2_a, "hada_w2_b": w2_b, "alpha": alpha})
    assert loha.norm == pytest.approx(float(((w1_a @ w1_b) * (w2_a @ w2_b)).norm()) * 1.5, rel=1e-5)
    w1, a, b = drawn((2, 3), (4, 2), (2, 5))
    lokr = strength_of({"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": alpha})
    assert lokr.norm == pytest.approx(float(torch.kron(w1, a @ b).norm()) * 1.5, rel=1e-5)
    whole = strength_of({"lokr_w1": w1, "lokr_w2": a, "alpha": alpha})
    assert whole.norm == pytest.approx(float(torch.kron(w1, a).norm()), rel=1e-5)
    dora = strength_of({"lora_up.weight": up, "lora_down.weight": down, "dora_scale": torch.ones(8, 1, 1, 1)})
    assert (dora.rank, dora.norm) == (2, None)


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"lora_down.weight": (2, 3)}, "lora_up.weight is missing"),
        ({"lora_down.weight": (2, 3), "lora_up.weight": (4, 3)}, "lora_down has the rank 2 and lora_up the rank 3"),
        ({"lora_down.weight": (0, 3), "lora_up.weight": (4, 0), "alpha": ()}, "do not fit together"),
        ({"hada_w1_a": (1 << 15, 1), "hada_w1_b": (1, 1 << 15), "hada_w2_a": (1, 1), "hada_w2_b": (1, 1)}, "larger than any weight"),
    ],
)  # fmt: skip
def test_nonsense_is_told_and_takes_no_memory(tensors, told):
    with pytest.raises(ValueError, match=told):
        strength_of({name: torch.ones(shape) for name, shape in tensors.items()})


def test_without_a_lora_there_is_no_share():
    assert len(energy_by_rank([])) == 0
    assert rank_for(torch.tensor([0.5, 0.9, 1.0]), 0.9) == 2
