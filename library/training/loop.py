"""The training loop. Everything that changes weights is visible in `fit`; observers only look on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from library.core.errors import Exit
from library.core.readback import Readback
from library.training.batch import Batch
from library.training.step import Trainer
from library.training.stopping import status_of_others


@dataclass(frozen=True)
class Span:
    """Where a run starts and ends."""

    first_step: int
    """Updates already done; the first update of a new run is 0."""
    last_step: int
    """Updates done when the run is complete."""
    updates_per_epoch: int
    accumulation: int

    @property
    def epochs(self) -> int:
        """Epochs of the run, the last one perhaps cut short."""
        return -(-self.last_step // self.updates_per_epoch)

    def epochs_after(self, steps: int) -> int:
        """Whole epochs that `steps` updates make."""
        return steps // self.updates_per_epoch


@dataclass(frozen=True)
class StepReport:
    """What observers are told after an update."""

    step: int
    """Updates done, this one included."""
    epoch: int
    """Epoch of this update, from 1."""
    ends_epoch: bool
    figures: Readback
    """What `Trainer.update_weights` returned."""
    global_size: int
    """Samples of the update over all processes."""
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rates in use, by group."""
    scheduled: dict[str, float] = field(default_factory=dict)
    """Where the optimizer finds its rates itself: the factors that the schedule gives it."""
    seconds: float = 0.0
    """Time of the whole update, without what observers do."""
    data_seconds: float = 0.0
    """Time of it spent waiting for data."""
    batches: Sequence[Batch] = ()
    """This process's batches of the update."""


class Observer(Protocol):
    """Looks on: logs, samples, saves. Never changes what is trained."""

    def before_training(self, step: int) -> None:
        """Told once, with the number of updates already done."""
        ...

    def after_step(self, report: StepReport) -> None:
        """Told after every update."""
        ...

    def after_training(self, step: int) -> None:
        """Told once at the end."""
        ...

    def before_stop(self, step: int) -> None:
        """Told instead where the run stops before its end, and is to be continued from here."""
        ...


@dataclass(frozen=True)
class Ending:
    """How training ended."""

    step: int
    """Updates done."""
    status: int
    """Exit status: `Exit.COMPLETE`, or why it stopped before its end."""


def fit(
    trainer: Trainer,
    batches: Iterator[Batch | None],
    span: Span,
    observers: Sequence[Observer],
    asked_to_stop: Callable[[], int] = lambda: Exit.COMPLETE,
) -> Ending:
    """Train from `span.first_step` to `span.last_step`, or until a process is asked to stop.

    Args:
        batches: this process's batch for each pass of each update, in order; None where it has no sample in a pass.
        asked_to_stop: the exit status to stop with, 0 to go on. All processes stop after the same update, whichever was asked.

    Raises:
        UserError: a loss, a gradient or a weight is not finite.
    """
    for observer in observers:
        observer.before_training(span.first_step)
    trainer.network.train()
    trainer.mark(span.first_step)
    asked: int = Exit.COMPLETE
    for step in range(span.first_step, span.last_step):
        if step % span.updates_per_epoch == 0 or step == span.first_step:
            trainer.network.start_epoch(step // span.updates_per_epoch)
        started = time.perf_counter()
        passes = [batch for batch in islice(batches, span.accumulation) if batch is not None]
        data_seconds = time.perf_counter() - started
        trainer.set_learning_rates(step)
        losses = trainer.accumulate_all(passes)
        trainer.reduce_gradients(losses, asked)
        figures = trainer.update_weights(step, trainer.clip(), passes)
        trainer.look_back(trainer.lag)
        report = StepReport(
            step=step + 1,
            epoch=step // span.updates_per_epoch + 1,
            ends_epoch=(step + 1) % span.updates_per_epoch == 0,
            figures=figures,
            batches=passes,
            global_size=passes[0].global_size if passes else 0,
            rates=trainer.optimizer.effective_rates(),
            scheduled=trainer.optimizer.rates() if trainer.optimizer.kind.one_rate else {},
            seconds=time.perf_counter() - started,
            data_seconds=data_seconds,
        )
        for observer in observers:
            observer.after_step(report)
        if report.ends_epoch:
            trainer.mark(report.step)
        asked = asked_to_stop()  # the others hear of it in the next exchange, and all stop after the same update
        stop = asked if trainer.processes == 1 else trainer.asked_anywhere
        if stop and report.step < span.last_step:
            for observer in observers:
                observer.before_stop(report.step)
            return Ending(report.step, asked or status_of_others(stop))
    trainer.look_back()
    for observer in observers:
        observer.after_training(span.last_step)
    return Ending(span.last_step, Exit.COMPLETE)
