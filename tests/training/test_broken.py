"""What becomes of a run whose loss or gradient is not finite: it stops, leaves the update out, or goes back."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from library.core.errors import Exit, UserError
from library.training.batch import Batch
from library.training.broken import BrokenUpdates
from library.training.loop import Span, fit
from library.training.step import Trainer

STEPS = 6

BROKEN_AT = 3
"""Step, from 0, whose latents hold a NaN or infinity."""


@pytest.fixture
def fitted(real_trainer: Callable[..., Trainer], random_batch: Callable[..., Batch]) -> Callable[..., Trainer]:
    """`fitted(action, limit, value)`: trained for six steps of a tiny Stable Diffusion, one with this value among its latents."""

    def train(
        action: Any, limit: int = 10, value: float = math.nan, steps: Any = range(STEPS), **changed: Any
    ) -> Trainer:
        trainer = real_trainer()
        trainer.broken = BrokenUpdates(action, limit)
        for name, setting in changed.items():
            setattr(trainer, name, setting)

        def batches() -> Iterator[Batch]:
            for step in steps:
                batch = random_batch(step)
                if step == BROKEN_AT:
                    batch.latents[1, 0, 3, 3] = value
                yield batch

        fit(trainer, batches(), Span(0, len(steps), updates_per_epoch=2, accumulation=1), [])
        return trainer

    return train


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_names_what_caused_it(fitted: Callable[..., Trainer], value: float) -> None:
    with pytest.raises(UserError) as stopped:
        fitted("stop", value=value)
    assert stopped.value.exit_code == Exit.BROKEN_VALUES
    assert all(word in str(stopped.value) for word in ("step 4", "1.png at timestep", "Learning rates", "unet 0.01"))


@pytest.mark.parametrize("lag", [0, 2])
def test_a_skipped_update_leaves_no_trace(
    fitted: Callable[..., Trainer], lag: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The same as the optimizer and schedule without it; the schedule here does not depend on the step."""
    with caplog.at_level(logging.WARNING, logger="dojo"):
        skipped = fitted("skip", lag=lag)
    without = fitted("stop", steps=[step for step in range(STEPS) if step != BROKEN_AT])
    assert torch.equal(skipped.groups.values, without.groups.values)
    assert skipped.groups.values.isfinite().all()
    assert "step 4" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize("lag", [0, 2])
def test_rollback_returns_to_the_end_of_the_last_epoch_and_goes_on_with_what_comes(
    fitted: Callable[..., Trainer], lag: int
) -> None:
    """Epochs end after steps 2 and 4, so weights go back to those of step 2; with a lag, step 5 is made in vain too."""
    rolled = fitted("rollback", lag=lag)
    kept = [0, 1, *range(BROKEN_AT + 1, STEPS)]
    assert torch.equal(rolled.groups.values, fitted("stop", steps=kept).groups.values)


def test_too_many_end_the_run(fitted: Callable[..., Trainer]) -> None:
    assert fitted("skip", limit=1).broken.met == 1
    with pytest.raises(UserError, match="nan_limit is 0"):
        fitted("skip", limit=0)


def test_rollback_returns_to_a_state_saved_later_than_the_epochs_end(
    real_trainer: Callable[..., Trainer], random_batch: Callable[..., Batch]
) -> None:
    trainer = real_trainer()
    trainer.broken = BrokenUpdates("rollback", 10)
    trainer.mark(0)
    for step in range(2):
        one_update(trainer, random_batch(step))
    saved = trainer.snapshot(2)
    one_update(trainer, random_batch(2))
    one_update(trainer, random_batch(3, latents=torch.full((2, 4, 8, 8), math.nan)))
    assert torch.equal(torch.cat(list(saved.tensors["network"].values())), trainer.groups.values)


def one_update(trainer: Trainer, batch: Batch) -> None:
    trainer.reduce_gradients([trainer.accumulate(batch)])
    trainer.update_weights(batch.step, trainer.clip(), [batch])
    trainer.look_back()
