"""How long a resumed run is and which learning-rate curve it follows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from library.config.schema import Config, SavingConfig, ScheduleConfig, TrainingConfig
from library.core.errors import UserError
from library.training.length import Length, plan_length
from library.training.loop import Span

UPDATES_PER_EPOCH = 10


def planned(
    step: int | None = None,
    schedule_steps: int = 100,
    schedule: str = "cosine",
    new_schedule: bool = False,
    **training: Any,
) -> tuple[Length, list[str]]:
    """The length of a run, resumed after `step` updates of one with `schedule_steps`, and what the user was told."""
    told: list[str] = []
    config = Config(
        training=TrainingConfig(**training),
        schedule=ScheduleConfig(lr_scheduler=schedule),
        saving=SavingConfig(resume_with_new_schedule=new_schedule),
    )
    position = None if step is None else SimpleNamespace(step=step, schedule_steps=schedule_steps)
    run = SimpleNamespace(config=config, position=position, say=told.append)
    return plan_length(run, UPDATES_PER_EPOCH), told


def test_a_new_run_counts_steps_or_epochs() -> None:
    assert planned(max_train_steps=25, gradient_accumulation_steps=3) == (Length(Span(0, 25, 10, 3), 25), [])
    assert planned(max_train_steps=25, max_train_epochs=4)[0] == Length(Span(0, 40, 10, 1), 40)


def test_an_unchanged_length_goes_on_without_a_word() -> None:
    assert planned(step=40, max_train_steps=100) == (Length(Span(40, 100, 10, 1), 100), [])


def test_a_longer_run_keeps_its_old_curve_and_says_so() -> None:
    length, (told,) = planned(step=40, max_train_steps=200)
    assert length == Length(Span(40, 200, 10, 1), 100)
    assert all(word in told for word in ("100", "200", "resume_with_new_schedule"))


def test_a_longer_run_follows_the_new_curve_on_demand() -> None:
    length, (told,) = planned(step=40, max_train_steps=200, new_schedule=True)
    assert length == Length(Span(40, 200, 10, 1), 200)
    assert all(word in told for word in ("100", "200", "40"))


def test_a_constant_rate_has_no_curve_to_speak_of() -> None:
    assert planned(step=40, max_train_steps=200, schedule="constant") == (Length(Span(40, 200, 10, 1), 200), [])


@pytest.mark.parametrize("last", [40, 100])
def test_a_run_that_is_already_over_is_a_mistake(last: int) -> None:
    with pytest.raises(UserError, match=f"100 steps.*ends at {last}.*max_train_steps"):
        planned(step=100, max_train_steps=last)
