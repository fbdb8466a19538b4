"""How long a run is, and which learning-rate curve it follows, in a new run and in a resumed one."""

from __future__ import annotations

from dataclasses import dataclass

from library.core.errors import UserError
from library.optim.schedules import depends_on_length
from library.training.loop import Span
from library.training.run import Run


@dataclass(frozen=True)
class Length:
    """The span of a run and the length of its learning-rate curve."""

    span: Span
    schedule_steps: int


def plan_length(run: Run, updates_per_epoch: int) -> Length:
    """Steps of the run. A resumed run keeps its old curve, and says so, unless `resume_with_new_schedule` asks for the new one.

    A complete run that is resumed with `latest` makes no step, and only its last files anew: whoever starts it again until it is
    done need not know when that is.

    Raises:
        UserError: the state is already as long as the run.
    """
    training, position = run.config.training, run.position
    last = (
        training.max_train_steps if training.max_train_epochs is None else training.max_train_epochs * updates_per_epoch
    )
    first = 0 if position is None else position.step
    if first == last and run.config.saving.resume == "latest":
        run.say(
            f"The run is complete, with {last} steps: only its last files are made anew. Raise max_train_steps to train on."
        )
    elif first >= last:
        raise UserError(
            f"the state has {first} steps, and the run ends at {last}: nothing is left to train. Raise max_train_steps."
        )
    span = Span(first, last, updates_per_epoch, training.gradient_accumulation_steps)
    if position is None or position.schedule_steps == last or not depends_on_length(run.config.schedule):
        return Length(span, last)
    former = position.schedule_steps
    if run.config.saving.resume_with_new_schedule:
        run.say(f"The learning rate now follows the curve of {last} steps instead of {former}, from step {first} on.")
        return Length(span, last)
    run.say(
        f"The run's length changed from {former} to {last} steps. The learning rate keeps the curve of {former} steps and "
        "stays at its end after that; resume_with_new_schedule = true follows the new one."
    )
    return Length(span, former)
