"""The parts of a rehearsal: each is tried, and what goes wrong in one is noted and keeps no other from being tried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from library.core.disk import stray_failure
from library.core.errors import Exit, UserError
from library.core.memory import give_back_memory, is_out_of_memory, out_of_memory

log = logging.getLogger("dojo")

T = TypeVar("T")

UNEXPECTED = 1
"""Status of a program that ends with an error that nobody foresaw."""


@dataclass
class Part:
    """One part of the run, done once."""

    name: str
    measured: str = ""
    """In words."""
    over_the_run: str = ""
    """What that comes to, in words; a duration is put behind it."""
    seconds: float = 0.0
    """That it takes over the run."""
    wrong: str = ""
    """What failed; empty where nothing did."""
    status: int = Exit.COMPLETE
    """That the run would end with; `COMPLETE` where it survives what is wrong."""

    @property
    def fails(self) -> bool:
        """Whether the run ends by it."""
        return self.status != Exit.COMPLETE


@dataclass
class Parts:
    """Those tried so far, in their order."""

    tried: list[Part] = field(default_factory=list)

    @contextmanager
    def part(self, name: str, survived: bool = False) -> Iterator[Part]:
        """Within the block, which fills in the part, an error is noted and goes no further.

        Args:
            survived: whether the run goes on after such an error.
        """
        part = Part(name)
        self.tried.append(part)
        try:
            yield part
            return
        except Exception as error:
            part.wrong, status = _told(error)
            part.status = Exit.COMPLETE if survived else status
        give_back_memory()


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work gives, and the seconds that it takes. On a GPU it has to end with something that waits for its results."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _told(error: Exception) -> tuple[str, int]:
    """The error in words, and the status that a run ends with because of it."""
    told = out_of_memory(error) if is_out_of_memory(error) else stray_failure(error)
    if isinstance(error, UserError):
        told = error
    if told is not None:
        return str(told), told.exit_code
    log.warning("an error that was not foreseen:", exc_info=error)
    return f"{type(error).__name__}: {error}", UNEXPECTED
