"""When something is due: every so many steps or epochs; and how often that is in a run."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.schema import SamplingConfig, SavingConfig, ValidationConfig
from library.training.loop import Span, StepReport


@dataclass(frozen=True)
class Interval:
    """Every n steps, every n epochs, both, or never."""

    steps: int | None = None
    epochs: int | None = None

    def by_steps(self, report: StepReport) -> bool:
        """Due because of the number of steps."""
        return self.steps is not None and report.step % self.steps == 0

    def by_epochs(self, report: StepReport) -> bool:
        """Due because an epoch has ended."""
        return self.epochs is not None and report.ends_epoch and report.epoch % self.epochs == 0

    def due(self, report: StepReport) -> bool:
        """Due for either reason."""
        return self.by_steps(report) or self.by_epochs(report)

    def times(self, span: Span) -> int:
        """How often it comes due after the first step and before the last; what is due for both reasons counts twice."""
        lengths = (self.steps, self.epochs and self.epochs * span.updates_per_epoch)
        return sum(max(0, (span.last_step - 1) // every - span.first_step // every) for every in lengths if every)


def sample_interval(sampling: SamplingConfig) -> Interval:
    """When pictures are sampled; `sample_every_n_epochs` comes before `sample_every_n_steps`."""
    epochs = sampling.sample_every_n_epochs
    return Interval(None if epochs else sampling.sample_every_n_steps, epochs)


def save_interval(saving: SavingConfig, span: Span) -> Interval:
    """When LoRA files are saved; `save_n_epoch_ratio` comes before `save_every_n_epochs`."""
    epochs = saving.save_every_n_epochs
    if saving.save_n_epoch_ratio is not None:
        epochs = max(1, span.epochs // saving.save_n_epoch_ratio)
    return Interval(saving.save_every_n_steps, epochs)


def validation_interval(validation: ValidationConfig) -> Interval:
    """When held-out pictures are measured; where nothing is said, after every epoch."""
    epochs = validation.validate_every_n_epochs
    if epochs is None and validation.validate_every_n_steps is None:
        epochs = 1
    return Interval(validation.validate_every_n_steps, epochs)


def times_sampled(sampling: SamplingConfig, span: Span) -> int:
    """At intervals, at the start where asked for, and at the end."""
    return sample_interval(sampling).times(span) + 1 + (sampling.sample_at_first and span.first_step == 0)


def times_saved(saving: SavingConfig, span: Span) -> int:
    """At intervals and at the end."""
    return save_interval(saving, span).times(span) + 1


def times_validated(validation: ValidationConfig, span: Span) -> int:
    """Before the first step, at intervals, and at the end."""
    return validation_interval(validation).times(span) + 2
