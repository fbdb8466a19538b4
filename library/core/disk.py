"""Room on disks, and what is told of a write that fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from library.core.errors import Exit, UserError

ELSEWHERE = "name a folder on another disk"

ADVICE = {
    errno.ENOSPC: f"Free some space there, or {ELSEWHERE}.",
    errno.EDQUOT: f"The quota of this user there is used up: remove something, or {ELSEWHERE}.",
    errno.EFBIG: f"No file may be so large there: raise the limit if there is one (`ulimit -f`), or {ELSEWHERE}.",
    errno.EROFS: f"The disk is there for reading only: mount it for writing, or {ELSEWHERE}.",
    errno.EIO: f"The disk, or the connection to it, has failed: see what the system's log says of it, or {ELSEWHERE}.",
    errno.EACCES: "This user may not do that there: change the owner or the rights, or name another folder.",
    errno.EPERM: "This user may not do that there: change the owner or the rights, or name another folder.",
}
"""Errors of the system that the user can do something about, by number, with what that is."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ONLY_OF_WRITES = (*FULL, errno.EROFS)
"""Errors that nothing but a write can meet."""


@contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Within the block, which writes `path`, a failure of the system becomes a mistake of the user's.

    Args:
        size: bytes to be written, where they are known.

    Raises:
        UserError: the file cannot be written; with `Exit.DISK_FULL` where room is lacking.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or system_error(error) in ADVICE:
            raise failed_write(error, path, size) from error
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within the block, which reads `path` or what is in it, a failure of the system becomes a mistake of the user's.

    Raises:
        UserError: something cannot be read.
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        advice = ADVICE.get(
            error.errno or 0, "See that it is what its name says and whole, or name another file or folder."
        )
        raise UserError(f"{where} cannot be read: {error.strerror or error}. {advice}") from error


def stray_failure(error: Exception) -> UserError | None:
    """What to tell of an error that no `writing` has met; None where it is not of the kinds that the user can do something about."""
    number, named = system_error(error), getattr(error, "filename", None)
    path = Path(named) if isinstance(named, str) else None
    if number in ONLY_OF_WRITES:
        return failed_write(error, path)
    if number not in ADVICE or path is None:
        return None
    return UserError(f"{path} cannot be used: {os.strerror(number)}. {ADVICE[number]}")


def failed_write(error: Exception, path: Path | None, size: int | None = None) -> UserError:
    """What to tell of a write that failed with `error`.

    Args:
        path: what was written, where that is known.
        size: bytes to be written, where they are known.
    """
    number = system_error(error)
    what = "a file" if path is None else str(path)
    of_size = "" if size is None else f" ({amount(size)})"
    reason = str(error) if number is None else os.strerror(number)
    free = None if path is None else free_space(path)
    room = "" if free is None else f" {amount(free)} are free there."
    advice = ADVICE.get(number or 0, "Name another file or folder.")
    return UserError(
        f"{what}{of_size} could not be written: {reason}.{room} {advice} Everything saved before is whole and as it was. "
        "What goes on when it is started again does so from there (training with `resume = latest`).",
        Exit.DISK_FULL if number in FULL else Exit.MISTAKE,
    )


def system_error(error: BaseException) -> int | None:
    """The system's number (`errno`) of an error; libraries written in Rust, safetensors say, tell it in their words only."""
    if isinstance(error, OSError):
        return error.errno
    told = None if isinstance(error, UserError) else re.search(r"\(os error (\d+)\)", str(error))
    if told is None:
        return None
    return OSError(0, "", None, int(told[1])).errno if os.name == "nt" else int(told[1])


def free_space(path: Path) -> int | None:
    """Bytes that this user can still write where `path` is, or will be; None where the system does not tell."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None


def check_room(path: Path, size: int) -> None:
    """Raise UserError, with `Exit.DISK_FULL`, where a file of this many bytes would not fit; before work that would be in vain."""
    free = free_space(path)
    if free is not None and free < size:
        raise UserError(
            f"{path} ({amount(size)}) would not fit: {amount(free)} are free there. Free some space, or name a file on another disk.",
            Exit.DISK_FULL,
        )


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there and may be looked at."""
    path = path.absolute()
    return next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110  # False where it is forbidden


def amount(size: float) -> str:
    """1.2 GB, 340 MB, 12 kB: as disks are measured, in powers of ten."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit * 0.9995:
            return f"{size / unit:.1f} {name}" if size < 100 * unit else f"{size / unit:.0f} {name}"
    return f"{size / 1e3:.0f} kB"
