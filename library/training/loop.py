"""The training loop. Everything that changes weights is visible in `fit`; observers only look on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from library.core.readback import Readback
from library.training.batch import Batch
from library.training.step import Trainer


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
    seconds: float = 0.0
    """Time of the whole update, without what observers do."""
    data_seconds: float = 0.0
    """Time of it spent waiting for data."""


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


def fit(trainer: Trainer, batches: Iterator[Batch | None], span: Span, observers: Sequence[Observer]) -> None:
    """Train from `span.first_step` to `span.last_step`.

    Args:
        batches: this process's batch for each pass of each update, in order; None where it has no sample in a pass.
    """
    for observer in observers:
        observer.before_training(span.first_step)
    trainer.network.train()
    for step in range(span.first_step, span.last_step):
        if step % span.updates_per_epoch == 0:
            trainer.network.start_epoch(step // span.updates_per_epoch)
        started = time.perf_counter()
        passes = [batch for batch in islice(batches, span.accumulation) if batch is not None]
        data_seconds = time.perf_counter() - started
        trainer.set_learning_rates(step)
        losses = [trainer.accumulate(batch) for batch in passes]
        trainer.reduce_gradients(losses)
        figures = trainer.update_weights(step, trainer.clip(), passes)
        report = StepReport(
            step=step + 1,
            epoch=step // span.updates_per_epoch + 1,
            ends_epoch=(step + 1) % span.updates_per_epoch == 0,
            figures=figures,
            global_size=passes[0].global_size if passes else 0,
            rates=trainer.optimizer.effective_rates(),
            seconds=time.perf_counter() - started,
            data_seconds=data_seconds,
        )
        for observer in observers:
            observer.after_step(report)
    trainer.check_gradients()
    for observer in observers:
        observer.after_training(span.last_step)
