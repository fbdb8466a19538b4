"""When a run stops before its end, in order: asked by a signal, left alone by its launcher, or out of time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from library.core.errors import Exit
from library.core.signals import ASKING
from library.training.run import Run

TERMINATED = 128 + signal.SIGTERM

MARGIN = 1.5
"""What is kept free, as a multiple of what was needed so far."""


@dataclass
class Deadline:
    """Whether there is time for one more step.

    Args:
        seconds: from now.
        to_save: how long saving a state is expected to take, in seconds.
        lag: updates that are still made after a request to stop.
    """

    seconds: float
    to_save: Callable[[], float]
    lag: int = 0
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)
    _times: list[float] = field(default_factory=list)
    """When it was first asked, and last."""
    _longest: float = 0.0
    _count: int = 0

    def __post_init__(self) -> None:
        self._started = self.clock()

    def is_near(self) -> bool:
        """Asked once a step: what passed since it was asked before is a step with all that came with it, samples included."""
        now = self.clock()
        first, last = self._times or (now, now)
        self._longest = max(self._longest, now - last)
        mean = (now - first) / max(1, self._count)
        self._times, self._count = [first, now], self._count + 1
        return now - self._started + MARGIN * (self._longest + self.lag * mean + self.to_save()) >= self.seconds


class Launcher:
    """Whether the process that launched this one is still there.

    `accelerate launch` does not pass on the SIGTERM that ends it: the run would go on without anybody knowing.
    """

    def __init__(self) -> None:
        self._parent = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ and os.name != "nt" else None

    def is_gone(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent


def requests_to_stop(run: Run, to_save: Callable[[], float], lag: int) -> Callable[[], int]:
    """A function that tells the exit status to stop with, or 0; to be asked once a step.

    Args:
        to_save: how long saving a state is expected to take, in seconds.
        lag: updates that pass until what processes have exchanged is read.
    """
    launcher = Launcher()
    limit = run.config.training.max_train_time
    deadline = None
    if limit is not None and run.is_main:  # whose request stops the others too: clocks need not agree
        until_heard = 0 if run.processes == 1 else 1 + lag
        deadline = Deadline(limit - (time.time() - run.now), to_save, until_heard)

    def asked() -> int:
        if run.signals.received is not None:
            return 128 + run.signals.received
        if launcher.is_gone():
            return TERMINATED
        return Exit.TIME_UP if deadline is not None and deadline.is_near() else Exit.COMPLETE

    return asked


def status_of_others(total: int) -> int:
    """The exit status of a process that was not asked itself, from the sum of those of all that were.

    One that was asked alone has told its own; from several this process cannot know more than that it is to end.
    """
    return total if total in (Exit.TIME_UP, *(128 + number for number in ASKING)) else TERMINATED
