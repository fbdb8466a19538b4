"""Losses far outside of what is usual: the first sign of a broken picture, of a caption for another one, or of a learning rate too high.

Losses of diffusion models vary by orders of magnitude with the timestep, so what is usual is measured, on the logarithm, by median
and median absolute deviation (Leys et al. 2013), which a few spikes do not move.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from library.training.batch import Batch, pictures_of

WINDOW, ENOUGH = 200, 100
"""Losses from which it is told what is usual; at least so many."""

DEVIATIONS = 3.5
"""How far above the median a spike is. Of 40,000 healthy steps, simulated with losses like those of SD 1.5 by timestep, 0 to 3 in 10,000
are above, by batch size; of 4,100 real steps of the demo none is."""

SIGMA = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations."""

LEAST = math.log(2.0)
"""How far it is at least: large batches vary so little that less would be told of as well."""

LISTED = 8
"""Steps, and pictures, that the summary names."""


@dataclass
class Spikes:
    """Watches the losses of a run, and remembers what was met."""

    steps: list[int] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    """Logarithms of losses."""
    _pictures: Counter[str] = field(default_factory=Counter)
    """In how many spikes this process had each."""

    def watch(self, step: int, loss: float, batches: Sequence[Batch]) -> str | None:
        """What to tell of this loss; None where it is usual, or not a positive number.

        Args:
            loss: mean over the global batch.
            batches: of the update, on this process.
        """
        if not 0 < loss < math.inf:
            return None
        logarithm, usual, limit = math.log(loss), self._usual(), self._limit()
        self._recent.append(logarithm)
        if logarithm <= limit:
            return None
        self.steps.append(step)
        self._pictures.update({image for batch in batches for image in batch.images})
        return (
            f"step {step}: the loss is {loss:.3g}, where {math.exp(usual):.3g} is usual. Pictures of this process: "
            f"{pictures_of(batches)}."
        )

    def summary(self) -> str | None:
        """The spikes in one line; None where there were none."""
        if not self.steps:
            return None
        listed = ", ".join(map(str, self.steps[:LISTED])) + (", ..." if len(self.steps) > LISTED else "")
        number = f"{len(self.steps)} spike{'s' if len(self.steps) > 1 else ''} of the loss, at step {listed}"
        back = [f"{image} ({count})" for image, count in self._pictures.most_common(LISTED) if count > 1]
        if not back:
            return f"{number}. No picture was in several of them, so none is suspicious for it."
        return f"{number}. Pictures that were in several of them are suspicious, and so are their captions: {', '.join(back)}."

    def _usual(self) -> float:
        return median(self._recent) if self._recent else math.nan

    def _limit(self) -> float:
        if len(self._recent) < ENOUGH:
            return math.inf
        usual = self._usual()
        spread = SIGMA * median(abs(each - usual) for each in self._recent)
        return usual + max(DEVIATIONS * spread, LEAST)
