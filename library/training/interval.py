"""When something is due: every so many steps or epochs."""

from __future__ import annotations

from dataclasses import dataclass

from library.training.loop import StepReport


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
