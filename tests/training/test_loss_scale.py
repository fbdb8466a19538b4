"""Loss scaling keeps small gradients, gives way to overflows, and recovers."""

from __future__ import annotations

import pytest
import torch

from library.training.loss_scale import GROWTH_INTERVAL, LossScale

CPU = torch.device("cpu")
FINE, OVERFLOW = torch.tensor(0.0), torch.tensor(1.0)


def test_gradients_that_fp16_would_lose_come_through() -> None:
    gradient = 1e-8
    assert torch.tensor(gradient).half() == 0
    scale = LossScale(True, CPU)
    weight = torch.ones((), requires_grad=True)
    scale.scaled(weight * gradient).backward()
    kept = weight.grad.half()
    assert kept > 0
    gradients = kept.float().reshape(1)
    scale.unscale_(gradients)
    torch.testing.assert_close(gradients, torch.tensor([gradient]), rtol=1e-3, atol=0)


def test_it_is_halved_by_every_overflow() -> None:
    scale = LossScale(True, CPU)
    for halvings in range(1, 4):
        scale.update(OVERFLOW)
        assert float(scale.scale) == 2.0 ** (16 - halvings)


def test_it_is_doubled_after_two_thousand_good_steps_in_a_row() -> None:
    scale = LossScale(True, CPU)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(FINE)
    assert float(scale.scale) == 2.0**16
    scale.update(OVERFLOW)
    for _ in range(GROWTH_INTERVAL - 1):
        scale.update(FINE)
    assert float(scale.scale) == 2.0**15, "an overflow starts the count anew"
    scale.update(FINE)
    assert float(scale.scale) == 2.0**16
    scale.update(FINE)
    assert scale.state() == {"on": 1.0, "scale": 2.0**16, "good_steps": 1.0}


def test_it_is_hopeless_once_hardly_scaled_gradients_overflow() -> None:
    scale = LossScale(True, CPU)
    for _ in range(16):
        scale.update(OVERFLOW)
        assert scale.hopeless(OVERFLOW) == 0
    scale.update(OVERFLOW)
    assert scale.hopeless(OVERFLOW) == 1
    assert scale.hopeless(FINE) == 0


def test_switched_off_it_changes_nothing_and_forgives_nothing() -> None:
    scale = LossScale(False, CPU)
    loss, gradients = torch.tensor(0.3), torch.tensor([0.1, -2.0])
    assert scale.scaled(loss) is loss
    scale.unscale_(gradients)
    assert torch.equal(gradients, torch.tensor([0.1, -2.0]))
    scale.update(OVERFLOW)
    assert float(scale.scale) == 1
    assert (scale.hopeless(OVERFLOW), scale.hopeless(FINE)) == (1, 0)


def test_it_is_changed_where_it_lies() -> None:
    """A captured backward pass goes on reading it there."""
    scale = LossScale(True, CPU)
    read = scale.scale
    scale.update(OVERFLOW)
    assert read == 2.0**15


def test_a_resumed_scale_goes_on_as_the_uninterrupted_one() -> None:
    straight, resumed = LossScale(True, CPU), LossScale(True, CPU)
    for _ in range(2):
        straight.update(OVERFLOW)
    for _ in range(5):
        straight.update(FINE)
    resumed.load_state(straight.state())
    for _ in range(GROWTH_INTERVAL - 5):
        straight.update(FINE)
        resumed.update(FINE)
    assert resumed.state() == straight.state() == {"on": 1.0, "scale": 2.0**15, "good_steps": 0.0}


@pytest.mark.parametrize("on", [False, True])
def test_a_state_of_another_precision_leaves_the_start_value(on: bool) -> None:
    former, scale = LossScale(not on, CPU), LossScale(on, CPU)
    scale.load_state(former.state())
    assert scale.state() == LossScale(on, CPU).state()
