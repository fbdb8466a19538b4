"""Writing files while training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """One thread that writes, one thing after the other. What goes wrong there is raised where the writer is used next."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._writing: list[Future[None]] = []
        self.longest = 0.0
        """Seconds that the slowest took."""

    def make_room(self) -> None:
        """Wait until no more than one thing is being written or waits for that: to be called before what is to be written is copied.

        Raises:
            Exception: what went wrong.
        """
        while len(self._writing) > 1:
            self._writing.pop(0).result()
        self.check()

    def write(self, job: Callable[[], None]) -> None:
        """Have it written after what is being written.

        Raises:
            Exception: what went wrong in an earlier one.
        """
        self.make_room()
        self._writing.append(self._thread.submit(self._timed, job))

    def check(self) -> None:
        """Raise what went wrong so far; does not wait."""
        while self._writing and self._writing[0].done():
            self._writing.pop(0).result()

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            Exception: what went wrong.
        """
        while self._writing:
            self._writing.pop(0).result()
        self._thread.shutdown()

    def _timed(self, job: Callable[[], None]) -> None:
        started = time.perf_counter()
        job()
        self.longest = max(self.longest, time.perf_counter() - started)
