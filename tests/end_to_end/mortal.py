"""Runs of the real entry point in processes of their own, for signals that they do not survive.

They are forked from a server that has imported everything, so that one starts in a fraction of a second.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

from benchmarks.blows import Blow

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.end_to_end.preloaded"])

LONGEST = 300
"""Seconds that a run may take on a busy machine."""


def run(options: list[str], blow: Blow | None, said: Path) -> int:
    """Train in a process of its own; returns its exit status, negative for a signal that ended it."""
    process = CONTEXT.Process(target=_live, args=(options, blow, said))
    process.start()
    process.join(LONGEST)
    status = process.exitcode
    process.kill()
    assert status is not None, f"still running; {said.read_text(encoding='utf-8')}"
    return status


def _live(options: list[str], blow: Blow | None, said: Path) -> None:
    with said.open("a", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    import train_network
    from library.core.runtime import run_command

    if blow is not None:
        blow.aim()
    sys.argv = ["train_network.py", *options]
    status = run_command(train_network.main)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
