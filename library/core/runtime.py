"""The process we run in: threads, memory allocator, readable output."""

from __future__ import annotations

import ctypes
import gc
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from library.core.disk import stray_failure
from library.core.errors import UserError
from library.core.memory import is_out_of_memory, out_of_memory

log = logging.getLogger("dojo")

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells know it."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command; a user's mistake is told as one message without a traceback, and becomes the exit status."""
    quiet_libraries()
    show_anything()
    keep_logs_short()
    try:
        return main() or 0
    except UserError as error:
        return _told(error)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # flushed at exit
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        told = out_of_memory(error) if is_out_of_memory(error) else stray_failure(error)
        if told is None:
            raise
        told.__context__ = error.__context__
        return _told(told)


def _told(last: UserError) -> int:
    """Tell of the error, and before it of those on whose way out it came: the first one says why the command ends."""
    found, error = [last], _earlier(last)
    while error is not None:
        if isinstance(error, UserError):
            found.append(error)
        error = _earlier(error)
    process = os.environ.get("RANK", "0")
    name = f"error{f' in process {process}' if process != '0' else ''}"
    messages = dict.fromkeys(str(each) for each in reversed(found))
    with suppress(OSError):  # what we say goes to the disk that is full
        print("\n".join(f"{name}: {message}" for message in messages), file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # flushed at exit
    return found[-1].exit_code


def _earlier(error: BaseException) -> BaseException | None:
    """The error that was on its way out when this one came, not counting those of which this one is the wording."""
    while error.__cause__ is not None:
        error = error.__cause__
    return None if error.__suppress_context__ else error.__context__


def use_all_cores(processes: int) -> int:
    """Threads for this process: what `OMP_NUM_THREADS` asks for, or the machine's cores divided among the local processes.

    Launchers set it to one, which halves the speed of a CPU run: under a launcher a one is not respected.
    """
    import torch

    asked = os.environ.get("OMP_NUM_THREADS", "")
    launched = any(name in os.environ for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"))
    respected = asked.isdigit() and int(asked) > (1 if launched else 0)
    threads = int(asked) if respected else max(1, available_cores() // max(1, processes))
    torch.set_num_threads(threads)
    return threads


def available_cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def quiet_libraries() -> None:
    """Keep back what libraries say of features that are not used (bitsandbytes of its 4-bit kernels, on import)."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def show_anything() -> None:
    """Print as an escape what the terminal's encoding lacks: a name of a file must not end a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_logs_short() -> None:
    """Where what we say goes to a file or another program, let progress bars write a line every ten seconds and not ten a second.

    Must come before tqdm is imported.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")


@contextmanager
def uncollected() -> Iterator[None]:
    """Within the block nothing looks for garbage, and afterwards nobody looks for it among what is there by then.

    For imports: they make many objects that stay, among which the collector would look over and over.
    """
    was_enabled = gc.isenabled()
    gc.unfreeze()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def keep_freed_memory() -> None:
    """Let glibc keep large freed blocks for the next step instead of returning them to the system each time.

    Activations are freed and asked for again in every step; page faults on fresh pages otherwise dominate small steps
    on a CPU. Does nothing on other C libraries.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
