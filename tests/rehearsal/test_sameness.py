"""A resumed step beside the step of the run that went on."""

from __future__ import annotations

import pytest
import torch

from library.core.errors import UserError
from library.rehearsal.sameness import compare
from library.training.state.snapshot import Snapshot


def snapshot(weights: list[float], moment: float = 0.5) -> Snapshot:
    return Snapshot({"network": {"0": torch.tensor(weights)}, "optimizer": {"0.exp_avg": torch.tensor([moment])}}, {})


BEFORE, WHOLE = snapshot([0.0, 0.0]), snapshot([3.0, 4.0])


def test_the_same_bits() -> None:
    assert compare(snapshot([3.0, 4.0]), WHOLE, BEFORE, exact=True) == "bitwise the same step"


@pytest.mark.parametrize(("resumed", "share"), [(snapshot([3.0, 4.5]), "0.1"), (snapshot([0.0, 0.0]), "1")])
def test_another_step_is_told_with_its_size(resumed: Snapshot, share: str) -> None:
    with pytest.raises(UserError, match=rf"differs by {share} of itself \(network: 0\)"):
        compare(resumed, WHOLE, BEFORE, exact=True)


def test_the_optimizers_state_counts_too() -> None:
    with pytest.raises(UserError, match=r"optimizer: 0\.exp_avg"):
        compare(snapshot([3.0, 4.0], moment=0.6), WHOLE, BEFORE, exact=True)


def test_a_gpu_may_round_otherwise() -> None:
    assert compare(snapshot([3.0, 4.005]), WHOLE, BEFORE, exact=False) == "the same step within 0.001 of it"
    with pytest.raises(UserError, match="does not go on"):
        compare(snapshot([3.0, 3.0]), WHOLE, BEFORE, exact=False)
    with pytest.raises(UserError, match="does not go on"):
        compare(snapshot([3.0, float("nan")]), WHOLE, BEFORE, exact=False)
