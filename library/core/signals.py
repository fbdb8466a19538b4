"""Signals that ask a command to stop: Ctrl-C, SIGTERM (from `kill`, a scheduler, a container), SIGHUP (the terminal is gone)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

ECHO = 0.25
"""Seconds within which a further signal is the same request: a launcher passes on what the terminal has already sent to all."""


class BrokenOff(BaseException):
    """A signal came while work was done that can be given up at any point."""


class Signals:
    """Turns a signal into a request that the running command sees when it can stop in order. A second one ends it at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._at = 0.0
        self._terminals: list[int] = []
        self._may_break_off = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Within the block a first signal is only noted. What the process ignored before (SIGHUP under `nohup`) stays ignored.

        Does nothing outside of the main thread, which alone is told of signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        former = {number: signal.getsignal(number) for number in ASKING}
        heard = [number for number, handler in former.items() if handler is not signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self._hear)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, former[number])

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Within the block a signal is noted and raises `BrokenOff`: for long work whose loss does no harm."""
        if self.received is not None:
            raise BrokenOff
        self._may_break_off = True
        try:
            yield
        finally:
            self._may_break_off = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._at = signal.Signals(number), now
            if self.received.name == "SIGHUP":
                self._leave_terminal()
            tell_at_once(f"\n{self.received.name}: stopping after this step, with its state saved. Once more: at once.")
        elif now - self._at > ECHO:
            tell_at_once(f"\n{signal.Signals(number).name} again: stopped at once.")
            os._exit(128 + number)  # whatever is being written goes to a temporary name first
        if self._may_break_off:
            self._may_break_off = False
            raise BrokenOff

    def _leave_terminal(self) -> None:
        """Write nowhere instead of to a terminal that is gone, where every further word would be an error."""
        for stream in self._terminals:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def tell_at_once(text: str) -> None:
    """Write a line to stderr past its buffer, which this thread may have been interrupted in writing; its reader may be gone."""
    with suppress(OSError):
        os.write(2, f"{text}\n".encode(errors="backslashreplace"))


def ignore_stopping() -> None:
    """For worker processes, which get the terminal's signals too, but must serve until the main process kills them."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
