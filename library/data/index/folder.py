"""What a folder holds, and reading from it: all that the data engine asks of the place where pictures are."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from library.core.files import is_file, is_folder

STAT = 4
"""Numbers that tell whether a file has changed: size in bytes, time of change of its content and of its entry in ns, inode."""

FOLDER = "is a folder"

SIGNED = (1 << 63) - 1
"""Some systems number files beyond 63 bits."""


@dataclass(frozen=True, eq=False)
class Listing:
    """N files by their names, sorted as bytes, and what tells whether they have changed."""

    names: list[str]
    """Relative to the folder, with "/" between folders; or absolute, where a file lies elsewhere."""
    stats_N4: NDArray[np.int64]
    no_files: dict[str, str] = field(default_factory=dict)
    """What else has a name there, and what it is: "is a folder", where its own files are not listed, or "is a link to nothing"."""

    def __len__(self) -> int:
        return len(self.names)

    def taken(self, places: Iterable[int]) -> Listing:
        """Some of the files."""
        places = list(places)
        return Listing([self.names[place] for place in places], self.stats_N4[places])

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return int(self.stats_N4[:, 0].sum())


@dataclass(frozen=True)
class Folder:
    """A folder on a disk. Another kind of place would offer the same three: list, read, and say where a file is."""

    root: Path

    def listing(self, recursive: bool = False) -> Listing:
        """Its files, hidden ones (such as macOS's `._photo.jpg`) left out.

        Args:
            recursive: those of its subfolders too, hidden ones apart.

        Raises:
            OSError: the folder cannot be listed.
        """
        names: list[str] = []
        stats = array("q")
        no_files: dict[str, str] = {}
        waiting, seen = [""], {_identity(self.root)}
        while waiting:
            below = waiting.pop()
            with os.scandir(self.root / below) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if is_file(entry):
                        names.append(below + entry.name)
                        stats.extend(numbers_of(entry.stat()))
                    elif (what := _what_it_is(entry)) != FOLDER or not recursive:
                        no_files[below + entry.name] = what
                    elif (place := _identity(Path(entry.path))) not in seen:
                        seen.add(place)  # links may lead around in a circle
                        waiting.append(f"{below}{entry.name}/")
        listing = _sorted(names, np.frombuffer(stats, dtype=np.int64).reshape(-1, STAT))
        return replace(listing, no_files=dict(sorted(no_files.items())))

    def named(self, names: Iterable[str]) -> Listing:
        """Files of it, or of elsewhere, by names that `name_of` gave.

        Raises:
            OSError: one of them is gone.
        """
        names = list(names)
        stats = [numbers_of(self.path(name).stat()) for name in names]
        return _sorted(names, np.array(stats, dtype=np.int64).reshape(-1, STAT))

    def name_of(self, path: Path) -> str:
        """What a listing calls a file of it, or of elsewhere; a path that is not absolute starts in the working folder."""
        path, root = path.absolute(), self.root.absolute()
        return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()

    def path(self, name: str) -> Path:
        """Where a file is, to show it."""
        return self.root / name

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            OSError: it cannot be read.
        """
        return (self.root / name).read_bytes()


def numbers_of(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What changes where a file does."""
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino & SIGNED


def _what_it_is(entry: os.DirEntry[str]) -> str:
    """Of what is no file."""
    if is_folder(entry):
        return FOLDER
    if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110  # as the listing has it
        return "is a link to nothing"
    return "is no file, but a pipe, socket or device"


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()  # a listing's own has no numbers on Windows
    return stat.st_dev, stat.st_ino


def _sorted(names: list[str], stats_N4: NDArray[np.int64]) -> Listing:
    order = sorted(range(len(names)), key=[os.fsencode(name) for name in names].__getitem__)
    return Listing([names[place] for place in order], stats_N4[order])
