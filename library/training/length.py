"""How long a run is, and which learning-rate curve it follows, in a new run and in a resumed one."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.schema import Config
from library.core.errors import UserError
from library.optim.schedules import depends_on_length
from library.training.checkpoint import Position
from library.training.loop import Span


@dataclass(frozen=True)
class Length:
    """The span of a run and the length of its learning-rate curve."""

    span: Span
    schedule_steps: int
    notices: tuple[str, ...] = ()


def plan_length(config: Config, updates_per_epoch: int, position: Position | None) -> Length:
    """Steps of the run. A resumed run keeps its old curve unless `resume_with_new_schedule` asks for the new one.

    Raises:
        UserError: the state is already as long as the run.
    """
    training = config.training
    last = (
        training.max_train_steps if training.max_train_epochs is None else training.max_train_epochs * updates_per_epoch
    )
    first = 0 if position is None else position.step
    if first >= last:
        raise UserError(
            f"the state has {first} steps, and the run ends at {last}: nothing is left to train. Raise max_train_steps."
        )
    span = Span(first, last, updates_per_epoch, training.gradient_accumulation_steps)
    if position is None or position.schedule_steps == last or not depends_on_length(config.schedule):
        return Length(span, last)
    if config.saving.resume_with_new_schedule:
        notice = f"The learning rate now follows the curve of {last} steps instead of {position.schedule_steps}, from step {first} on."
        return Length(span, last, (notice,))
    notice = (
        f"The run's length changed from {position.schedule_steps} to {last} steps. The learning rate keeps the curve of "
        f"{position.schedule_steps} steps and stays at its end after that; resume_with_new_schedule = true follows the new one."
    )
    return Length(span, position.schedule_steps, (notice,))
