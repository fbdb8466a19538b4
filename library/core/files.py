"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary neighbour of `path`, flush it to disk, and move it into place.

    A crash at any moment leaves the former file, or none, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
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
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which becomes `path`, in place of a former one, when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        folder_mode = temporary.stat().st_mode
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(folder_mode & 0o666)
            flush_to_disk(file)
        former = temporary.with_suffix(".former")
        if path.exists():
            path.replace(former)
        temporary.replace(path)
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    flush_folder(path.parent)


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
    finally:
        os.close(handle)
