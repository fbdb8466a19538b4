"""Files brought into the folder of prepared pictures, and nothing of others' overwritten or removed there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.hashing import content_hash


@dataclass(frozen=True)
class Wanted:
    """A file as it shall be."""

    content: str
    """Hash of its bytes."""
    write: Callable[[Path], object]
    """Writes it to the path that it is given."""


@dataclass(frozen=True)
class Written:
    """A file that was written in this run or an earlier one."""

    content: str
    stat: tuple[int, int]
    """Its size in bytes, and the time of its last change in nanoseconds."""


@dataclass
class Placed:
    """What became of the files; paths below the folder."""

    files: dict[str, Written] = field(default_factory=dict)
    """Those that are ours."""
    new: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Left as they are: somebody else wrote or edited them."""
    removed: list[str] = field(default_factory=list)


def written_stat(path: Path) -> tuple[int, int]:
    """Size in bytes, and time of the last change in nanoseconds."""
    known = path.stat()
    return known.st_size, known.st_mtime_ns


def is_ours(path: Path, former: Written | None) -> bool:
    """Whether the file is as it was written; its bytes are read only where its time of change is another one."""
    if former is None or not path.is_file():
        return False
    return written_stat(path) == former.stat or content_hash(path.read_bytes()) == former.content


def place(
    folder: Path,
    wanted: Mapping[str, Wanted],
    former: Mapping[str, Written],
    stale: Sequence[str],
    overwrite: bool,
    placed: Placed | None = None,
) -> Placed:
    """Remove what is stale, then write what is missing or has changed.

    In this order, since a picture that moves from one part to another must not be in both when the run is interrupted, and names that
    differ by their case alone are one file on some disks.

    Args:
        wanted: path below the folder -> file.
        former: what is there of earlier calls.
        stale: paths of `former` to be removed, where nobody has edited them since.
        overwrite: replace what others wrote too.
        placed: what earlier calls have done, to be added to.

    Raises:
        UserError: a file cannot be written.
    """
    placed = placed or Placed({name: file for name, file in former.items() if name not in stale})
    for name in stale:
        if is_ours(folder / name, former.get(name)):
            (folder / name).unlink()
            placed.removed.append(name)
        elif (folder / name).exists():
            placed.kept.append(name)
    for name, file in wanted.items():
        path, known = folder / name, former.get(name)
        if is_there(path, file.content, known):
            placed.files[name] = Written(file.content, written_stat(path))
        elif not overwrite and (path.is_symlink() or (path.exists() and not is_ours(path, known))):
            placed.kept.append(name)
        else:
            write_atomically(path, file.write)
            placed.files[name] = Written(file.content, written_stat(path))
            placed.new.append(name)
    remove_empty(folder, {(folder / name).parent for name in stale})  # an interrupted run may have removed the files
    return placed


def is_there(path: Path, content: str, former: Written | None) -> bool:
    """Whether the file with that content is in place."""
    if not path.is_file() or path.is_symlink():
        return False
    if former is not None and former.content == content and former.stat == written_stat(path):
        return True
    return content_hash(path.read_bytes()) == content


def check_apart(source: Path, folder: Path, below: Sequence[str], others: Sequence[Path | None] = ()) -> None:
    """See that nothing will be written among the originals.

    Args:
        below: folders in `folder` that may be written to, as paths below it.
        others: further files to be written.

    Raises:
        UserError: something that will be written lies among the originals, or the originals in the folder of prepared pictures.
    """
    originals, out = source.resolve(), folder.resolve()
    if out == originals or out.is_relative_to(originals):
        raise UserError(
            f"--out {folder} lies in {source}: the originals are never touched. Name a folder beside it, "
            f"{(originals.parent / (originals.name + '-prepared')).as_posix()} say."
        )
    if originals.is_relative_to(out):
        raise UserError(f"--out {folder} holds {source}: the originals are never touched. Name another folder.")
    for name in below:
        real = (folder / name).resolve()
        if real.is_relative_to(originals) or originals.is_relative_to(real):
            raise UserError(
                f"{folder / name} leads to {real}, where the originals are. Remove that link, or name another --out."
            )
    for file in others:
        if file is not None and file.resolve().is_relative_to(originals):
            raise UserError(f"{file} lies among the originals, where nothing is written. Name a file elsewhere.")


def copy_of(path: Path, content: str) -> Wanted:
    """A copy of a file whose hash is known."""
    return Wanted(content, lambda target: shutil.copyfile(path, target))


def with_bytes(data: bytes) -> Wanted:
    """A file of bytes at hand."""
    return Wanted(content_hash(data), lambda target: target.write_bytes(data))


def remove_empty(root: Path, folders: set[Path]) -> None:
    """Remove folders in which nothing is left, and those above them, up to the root; links to folders stay."""
    for folder in sorted(folders, key=lambda path: len(path.parts), reverse=True):
        while folder != root and folder.is_dir() and not folder.is_symlink() and not os.listdir(folder):  # noqa: PTH208
            folder.rmdir()
            folder = folder.parent
