"""The processes of one run end together: where one fails or dies, the others say so and end, whatever they wait for.

A process that waits for another one inside a collective would wait for as long as the process group allows, which must be long,
since the others also wait while the main process samples or saves. A launcher may be there to end those that are left, or not. So
each process raises a counter of its own, about once a second, in the store through which the processes find each other, and looks
at the others' counters and at a note that a failing process leaves.

Nothing here imports torch before it is needed: a mistake in the configuration is told first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from textwrap import shorten
from typing import TYPE_CHECKING, NoReturn

from library.core.errors import Exit, UserError
from library.core.signals import tell_at_once
from library.core.terminal import harmless

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed import Store

POLL = 1.0
"""Seconds between two looks at the others."""

ARRIVAL = 600
"""Looks until which a process must have raised its counter for the first time, while they gather."""

SILENCE = 45
"""Looks at a counter that does not move after which its process is gone. Looks and not seconds: a machine that was suspended
looks no more often than before, and finds the others as it left them."""

ECHO = 4
"""The same for a process whose exchange with this one has broken off."""

GRACE = 2
"""Looks that the main thread is given to end by itself after another process has failed: it may have found the same error."""

TELLING = 60.0
"""Seconds for which a process that fails before it has joined the others tries to reach them."""

GOODBYE = 10
"""Looks for which the main process, whose end may end the store, waits until the others have read why it fails."""

LEAVING = 30
"""Seconds that a process which failed has for its end once it has told the others: destroying a process group can wait for ever."""

DONE = 1 << 40
"""Added to the counter of a process that is done, or knows why the run fails."""

WAITING = timedelta(days=1)
"""The longest that one process may keep the others waiting in a collective, as by sampling."""

ALONE = "cannot go on alone (resume = latest continues from the last state): "


@contextmanager
def ending_together() -> Iterator[Callable[[], Accelerator]]:
    """Gives what joins the other processes. Where one leaves the block with an error or dies, all end; nothing is watched for one.

    Raises:
        UserError: another process failed or is gone, with status `PROCESS_LOST`. Where the main thread cannot be reached, since it
            waits in a collective, the process ends at once with that message and that status.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1")) if os.environ.keys() >= {"RANK", "MASTER_ADDR"} else 1
    if processes == 1:
        yield _accelerator
        return
    watch = Watch(int(os.environ["RANK"]), processes)
    try:
        yield watch.join
        watch.leave()
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:
            raise
        first = watch.leave_with(error)
        if hasattr(signal, "alarm"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LEAVING)
        if first is not None:
            noticed = shorten(_described(error), 160, placeholder="...")
            raise UserError(f"{ALONE}{first} (noticed here as {noticed})", Exit.PROCESS_LOST) from error
        raise


def _accelerator() -> Accelerator:
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    return Accelerator(mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=WAITING)])


class Watch:
    """Looks at the other processes from threads of its own.

    One thread talks to the store, and may be held up for ever where the network is gone; the other counts how long it has heard
    nothing.

    Args:
        rank, processes: this process and the number of all.
    """

    def __init__(self, rank: int, processes: int) -> None:
        self._rank = rank
        self._rounds = 0
        self._counters = [0] * processes
        self._patience = SILENCE
        self._joined = False
        self._done = False
        self._first: str | None = None
        """The first failure that is known."""
        self._found = threading.Event()
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self) -> Accelerator:
        """Begin to watch, and join the others.

        Raises:
            UserError: the launcher's variables are incomplete.
        """
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._listen, self._judge)]
        for thread in self._threads:
            thread.start()
        accelerator = _accelerator()
        self._joined = True
        if accelerator.num_processes != len(self._counters):
            raise UserError(
                f"WORLD_SIZE is {len(self._counters)}, but the processes do not know of one another: {accelerator.num_processes} joined. "
                "Set LOCAL_RANK, too, to the number of the process on its machine, from 0."
            )
        while not self._rounds and not self._found.is_set():  # from then on, silence means that this process is gone
            time.sleep(POLL / 20)
        return accelerator

    def leave(self) -> None:
        """End without an error. The main process stays until all are done, since the store may end with it."""
        if not self._threads:
            return
        import torch

        self._done = True
        while (min(self._counters) if self._rank == 0 else self._counters[self._rank]) < DONE:
            time.sleep(POLL / 4)
        self._stop()
        torch.distributed.destroy_process_group()

    def leave_with(self, error: BaseException) -> str | None:
        """End with an error: tell the others, unless it only follows from what another process did; returns that, in words."""
        first = None
        joined = bool(self._threads)
        if joined and isinstance(error, RuntimeError):  # as a broken exchange is
            self._patience = ECHO
            self._found.wait((ECHO + GRACE) * POLL)
            first = self._first
        self._stop()
        self._first = first or f"process {self._rank} failed: {_described(error)}"
        telling = threading.Thread(
            target=self._tell, args=(self._first, joined), daemon=True
        )  # can be held up for ever
        telling.start()
        telling.join((GOODBYE + GRACE) * POLL if joined else TELLING)
        return first

    def _stop(self) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join(GOODBYE * POLL)

    def _tell(self, note: str, joined: bool) -> None:
        with suppress(RuntimeError):  # where there is no store, the others see it for themselves
            store = _connection(timedelta(seconds=TELLING), hosts=self._rank == 0 and not joined)
            store.compare_set("failed", "", note)
            self._exchange(store)
            for _ in range(GOODBYE if self._rank == 0 else 0):
                if min(self._counters) < DONE:
                    time.sleep(POLL)
                    self._exchange(store)

    def _listen(self) -> None:
        """Exchange counters until the end."""
        try:
            store = _connection(WAITING)
            while not self._leaving.is_set():
                self._exchange(store)
                if self._first is None and store.check(["failed"]):
                    self._conclude(store.get("failed").decode())
                self._leaving.wait(POLL)
        except RuntimeError as error:
            self._conclude(
                f"the connection to process 0 or its launcher, at {_master()}, is lost ({_described(error)})"
            )

    def _exchange(self, store: Store) -> None:
        knows = self._done or self._first is not None
        store.add(f"counter/{self._rank}", DONE if knows else 1)
        self._counters = [store.add(f"counter/{peer}", 0) for peer in range(len(self._counters))]
        self._rounds += 1

    def _judge(self) -> None:
        """Count for how many looks each counter has stood still, and end the process where the main thread does not."""
        before, silent = [(-1, False)] * (len(self._counters) + 1), [0] * (len(self._counters) + 1)
        while not self._found.is_set():
            if self._leaving.wait(POLL):
                return
            now = [(counter, self._joined) for counter in (*self._counters, self._rounds)]
            silent = [0 if new != old or new[0] >= DONE else looks + 1 for new, old, looks in zip(now, before, silent)]
            before = now
            late = [looks >= (self._patience if any(state) else ARRIVAL) for looks, state in zip(silent, now)]
            if any(late):
                self._conclude(self._missing(late, silent))
        if not self._leaving.wait(GRACE * POLL):
            assert self._first is not None
            _end(self._rank, self._first)

    def _missing(self, late: list[bool], silent: list[int]) -> str:
        if late[-1]:
            return f"process 0 or its launcher, at {_master()}, has not answered for {silent[-1] * POLL:.0f} s"
        rank = late.index(True)
        return f"process {rank} has not been heard of for {silent[rank] * POLL:.0f} s"

    def _conclude(self, first: str) -> None:
        if self._first is None:
            self._first = first
            self._found.set()


def _master() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '29500')}"


def _connection(patience: timedelta, hosts: bool = False) -> Store:
    """A connection of our own to the store: the process group's is blocked while something is awaited through it.

    Args:
        patience: until the store must be there.
        hosts: whether this process must make the store, where no launcher does.

    Raises:
        RuntimeError: there is no store.
    """
    from torch.distributed import PrefixStore, TCPStore

    host, _, port = _master().rpartition(":")
    hosts = hosts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(host, int(port), is_master=hosts, wait_for_workers=False, timeout=patience)
    return PrefixStore(f"lora_dojo/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _described(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(harmless(str(error)).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _end(rank: int, why: str) -> NoReturn:
    """End without waiting for anything: the main thread may be inside a collective that will never return.

    What is being written goes to a temporary name first, so that nothing half-written is left under a final one.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader may be gone
            stream.flush()
    tell_at_once(f"error in process {rank}: {ALONE}{why}")
    os._exit(Exit.PROCESS_LOST)
