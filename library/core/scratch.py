"""A hidden folder for what is made only to be looked at, and removed again."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from library.core.disk import existing, writing
from library.core.files import DAY, clear_leftovers


@contextmanager
def scratch_folder(folder: Path, purpose: str) -> Iterator[Path]:
    """A folder beside `folder`, on its disk. It is removed at the end, also where a signal ends the process.

    What SIGKILL left of an earlier one of that purpose is removed too.

    Raises:
        UserError: it cannot be made.
    """
    place, name = _place(folder.absolute()), f"{folder.absolute().name}-{purpose}"
    clear_leftovers(place, lambda found: found == name, older_than=DAY)
    scratch = place / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
    with writing(scratch):
        scratch.mkdir()
    try:
        with _ended_in_order():
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _place(folder: Path) -> Path:
    """The folder's parent, unless a disk is mounted at the folder itself, or nothing may be written beside it."""
    beside = existing(folder.parent)
    if folder.is_dir() and (folder.stat().st_dev != beside.stat().st_dev or not os.access(beside, os.W_OK)):
        return folder
    return beside


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP end the process as an exception does; one that it ignores stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in numbers}
    heard = [number for number in numbers if former[number] is signal.SIG_DFL]
    for number in heard:
        signal.signal(number, lambda received, frame: sys.exit(128 + received))
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, former[number])
