"""What is done about an update whose loss or gradient is not finite."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from library.core.errors import Exit, UserError
from library.training.batch import Batch, pictures_of

log = logging.getLogger("dojo")

DONE = {
    "skip": "The update was left out",
    "rollback": "Training goes on from the weights at step {} with the pictures that come next",
}


@dataclass
class BrokenUpdates:
    """Counts them, and says when there are too many.

    Args:
        action: "stop", "skip" the update, or "rollback": return to earlier weights and leave out the data in between, as
            Chowdhery et al. 2022, section 5.1, do about spikes of the loss.
        limit: how many may be met.
    """

    action: Literal["stop", "skip", "rollback"] = "stop"
    limit: int = 0
    met: int = 0

    def meet(self, report: str, marked_step: int) -> None:
        """Told of one.

        Args:
            report: what happened, where.
            marked_step: step to which a rollback returns.

        Raises:
            UserError: the run is to stop.
        """
        self.met += 1
        if self.action == "stop":
            survive = "on_nan = skip or rollback lets a run survive a few."
            raise UserError(f"{report} {_ADVICE} {survive}", Exit.BROKEN_VALUES)
        if self.met > self.limit:
            raise UserError(
                f"{report} It has happened {self.met} times, and nan_limit is {self.limit}. {_ADVICE}",
                Exit.BROKEN_VALUES,
            )
        log.warning("%s %s (%d of %d).", report, DONE[self.action].format(marked_step), self.met, self.limit)


_ADVICE = (
    "Usual causes: a learning rate that is too high, fp16 overflow (mixed_precision = bf16 avoids it), broken data. Resume with a lower "
    "learning rate (and resume_with_changes = true), from a state of before the loss went astray."
)


def describe(batches: Sequence[Batch], rates: dict[str, float]) -> str:
    """Where it happened.

    Args:
        batches: of the update, on this process.
        rates: learning rates by group.
    """
    listed = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    where = f"step {batches[0].step + 1}" if batches else "this step"
    return (
        f"the loss or gradient became NaN or infinite at {where}; it changed no weight, and nothing of it was saved. "
        f"Pictures of this process: {pictures_of(batches)}. Learning rates: {listed}."
    )
