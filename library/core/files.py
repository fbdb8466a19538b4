"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from library.core.disk import writing

LEFT_OVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.(?P<kind>tmp|former)")
"""What a writer that was killed leaves of `name`."""

AT_WORKING_FOLDER, EXCHANGE = -100, 2
"""Linux's AT_FDCWD and RENAME_EXCHANGE; macOS's RENAME_SWAP is 2 as well."""


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether a listing's entry is a file or leads to one; a link that leads to itself does not."""
    try:
        return entry.is_file()
    except OSError:
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether a listing's entry is a folder or leads to one; a link that leads to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def write_atomically(path: Path, write: Callable[[Path], object], size: int | None = None) -> None:
    """Call `write` with a temporary neighbour of `path`, flush it to disk, and move it into place.

    A crash at any moment leaves the former file, or none, never half of one.

    Args:
        size: bytes to be written, where they are known, for the message of a disk that is full.

    Raises:
        UserError: the file cannot be written; with `Exit.DISK_FULL` where room is lacking.
    """
    temporary = _temporary(path)
    with writing(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            usual_mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(usual_mode)  # some writers make files that only their owner can read
            flush_to_disk(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(path.parent)


@contextmanager
def new_folder(path: Path, size: int | None = None) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path`, in place of a former one, when the block ends without an error.

    Arguments and errors as of `write_atomically`.
    """
    temporary = _temporary(path)
    with writing(path, size):
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _flush_all(temporary)
            _move_into_place(temporary, path)
            flush_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # or the former folder, which has its name now


def remove_folder(path: Path) -> None:
    """Remove a folder in one stroke: whoever is killed while its files go leaves nothing under its name."""
    gone = _temporary(path)
    path.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


DAY = 86400
"""Seconds after which nobody still writes a file into a folder that others may share."""


def clear_leftovers(folder: Path, ours: Callable[[str], bool], older_than: float = 0) -> None:
    """Remove what writers that were killed have left in a folder, and give a former folder its name back where that is free.

    Args:
        ours: whether nobody else can be writing a file or folder of this name now.
        older_than: seconds since a leftover was last changed.

    Raises:
        UserError: it cannot be removed.
    """
    if not folder.is_dir():
        return
    latest = time.time() - older_than
    with writing(folder):
        entries = list(os.scandir(folder))
    for entry in entries:
        found = LEFT_OVER.fullmatch(entry.name)
        if found is None or not ours(found["name"]):
            continue
        path, target = Path(entry.path), folder / found["name"]
        with writing(path), suppress(FileNotFoundError):  # another process clears up too
            if entry.stat(follow_symlinks=False).st_mtime > latest:
                continue
            if found["kind"] == "former" and not target.exists():
                path.replace(target)
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """fsync a file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """fsync a folder's entries, where the system allows it (Windows does not open folders)."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # as network disks answer that cannot do it
            raise
    finally:
        os.close(handle)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _flush_all(folder: Path) -> None:
    """fsync a folder with everything in it, whose files get the usual mode."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            flush_to_disk(path)
        elif path.is_dir():
            flush_folder(path)
    flush_folder(folder)


def _move_into_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
    elif not _exchanged(temporary, path):
        former = temporary.with_suffix(".former")
        path.replace(former)  # a crash before the next line leaves no `path`: see `clear_leftovers`
        try:
            temporary.replace(path)
        except OSError:
            former.replace(path)
            raise
        shutil.rmtree(former, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders swap their names in one stroke, where the system and the disk can do that."""
    if sys.platform == "linux":
        swap = getattr(ctypes.CDLL(None), "renameat2", None)
        return swap is not None and not swap(
            AT_WORKING_FOLDER, os.fsencode(one), AT_WORKING_FOLDER, os.fsencode(other), EXCHANGE
        )
    if sys.platform == "darwin":
        return not ctypes.CDLL(None).renamex_np(os.fsencode(one), os.fsencode(other), EXCHANGE)
    return False
