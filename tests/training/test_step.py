"""An update whose gradient is broken changes nothing, and is told with what caused it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from library.core.errors import Exit, UserError
from library.training.loop import Span, fit
from library.training.step import Trainer

NewTrainer = Callable[..., Trainer]

BATCH = SimpleNamespace(step=4, images=["good.png", "dark.png"], timesteps=torch.tensor([17, 980]), global_size=2)


def break_gradient(trainer: Trainer, value: float) -> None:
    trainer.groups[0].gradients.fill_(1.0)
    trainer.groups[0].gradients[3] = value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ema", [False, True])
def test_a_broken_gradient_stops_the_run_and_changes_no_weight(
    new_trainer: NewTrainer, update: Callable, value: float, ema: bool
) -> None:
    trainer = new_trainer(0.5, ema=ema)
    update(trainer, 0)
    before = trainer.groups[0].values.clone()
    break_gradient(trainer, value)
    trainer.update_weights(4, trainer.clip(), [BATCH])
    with pytest.raises(UserError) as stopped:
        trainer.look_back()
    assert stopped.value.exit_code == Exit.BROKEN_VALUES == 3
    assert torch.equal(trainer.groups[0].values, before)
    told = str(stopped.value)
    assert all(word in told for word in ("step 5", "good.png at timestep 17", "dark.png at timestep 980", "unet 0.1"))


def test_clipping_does_not_hide_a_broken_gradient(new_trainer: NewTrainer) -> None:
    trainer = new_trainer(0.5)
    trainer.max_grad_norm = 1.0
    break_gradient(trainer, math.inf)
    before = trainer.groups[0].values.clone()
    trainer.update_weights(0, trainer.clip(), [BATCH])
    with pytest.raises(UserError, match="NaN or infinite"):
        trainer.look_back()
    assert torch.equal(trainer.groups[0].values, before)


@pytest.mark.parametrize("maximum", [0.0, 0.5, 100.0])
def test_clipping_returns_the_norm_before(new_trainer: NewTrainer, maximum: float) -> None:
    trainer = new_trainer()
    trainer.max_grad_norm = maximum
    trainer.groups[0].gradients[:2] = torch.tensor([3.0, 4.0])
    assert trainer.clip().item() == pytest.approx(5.0)
    left = trainer.groups[0].gradients.norm().item()
    assert left == pytest.approx(min(5.0, maximum) if maximum else 5.0, rel=1e-5)


def test_an_overflow_of_fp16_is_skipped_with_half_the_scale(new_trainer: NewTrainer, update: Callable) -> None:
    trainer, undisturbed = new_trainer(0.5, fp16=True), new_trainer(0.5, fp16=True)
    break_gradient(trainer, math.inf)
    trainer.update_weights(0, trainer.clip(), [BATCH])
    trainer.look_back()
    assert float(trainer.loss_scale.scale) == 2.0**15
    assert torch.equal(trainer.groups[0].values, undisturbed.groups[0].values)
    assert trainer.groups[0].gradients.abs().max() == 0, "nothing of it is left for the next update"
    update(trainer, 1)
    update(undisturbed, 1)
    assert torch.equal(trainer.groups[0].values, undisturbed.groups[0].values)


def test_gradients_that_overflow_at_any_scale_stop_the_run(new_trainer: NewTrainer) -> None:
    trainer = new_trainer(0.5, fp16=True)
    with pytest.raises(UserError, match="NaN or infinite"):
        for step in range(30):
            break_gradient(trainer, math.nan)
            trainer.update_weights(step, trainer.clip(), [BATCH])
            trainer.look_back()
    assert step == 16, "2^16 is halved seventeen times before it is below 1"


def test_flags_that_were_not_read_yet_are_read_at_the_end(new_trainer: NewTrainer) -> None:
    trainer = new_trainer()
    break_gradient(trainer, math.nan)
    trainer.update_weights(4, trainer.clip(), [BATCH])
    trainer.look_back(lag=1)
    with pytest.raises(UserError, match=r"dark\.png"):
        trainer.look_back()


class Witness:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def before_training(self, step: int) -> None:
        self.told.append(("before", step))

    def after_step(self, report: Any) -> None:
        loss = report.figures.values()["loss"]
        self.told.append((report.step, report.epoch, report.ends_epoch, loss, report.global_size))

    def after_training(self, step: int) -> None:
        self.told.append(("after", step))

    def before_stop(self, step: int) -> None:
        self.told.append(("stop", step))


def test_the_loop_tells_of_every_update(new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the fourth update on, two passes an update, three updates an epoch, a pass without samples now and then."""
    trainer, witness, epochs = new_trainer(), Witness(), []
    trainer.network.start_epoch = epochs.append
    monkeypatch.setattr(trainer, "accumulate", lambda batch: torch.full((2,), 0.5))
    batches = [BATCH, BATCH, BATCH, None, None, None, BATCH, BATCH]
    fit(trainer, iter(batches), Span(3, 7, updates_per_epoch=3, accumulation=2), [witness])
    assert epochs == [1, 2]
    assert [told[:4] for told in witness.told[1:-1]] == [
        (4, 2, False, 2),
        (5, 2, False, 1),
        (6, 2, True, 0),
        (7, 3, False, 2),
    ]
    assert (witness.told[0], witness.told[-1]) == (("before", 3), ("after", 7))
    assert [told[4] for told in witness.told[1:3]] == [2, 2]


def test_processes_exchange_gradients_and_losses_at_once(
    new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process had losses of 3 and 5, and gradients of 1 everywhere."""
    trainer = new_trainer()
    trainer.processes = 2
    trainer.groups[0].gradients[:8] = 2.0
    exchanged: list[int] = []

    def all_reduce(tensor: torch.Tensor) -> None:
        exchanged.append(tensor.numel())
        tensor[:8] += 1
        tensor[trainer.groups.gradients.numel()] += 8

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    trainer.reduce_gradients([torch.tensor([2.0, 6.0]), torch.tensor([4.0])])
    norm = trainer.clip()
    assert norm.item() == pytest.approx(math.sqrt(8 * 9))
    assert trainer.update_weights(0, norm, []).values() == {
        "loss": 20.0,
        "gradient_norm": pytest.approx(math.sqrt(8 * 9)),
        "broken": 0.0,
        "stop": 0.0,
    }
    trainer.reduce_gradients()
    assert trainer.update_weights(1, trainer.clip(), []).values()["loss"] == 8.0, "what was summed before is forgotten"
    assert exchanged == [trainer.groups.summed.numel()] * 2
