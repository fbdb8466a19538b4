"""Reading the shards of a folder: those that are there, and those that others make meanwhile."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock, RLock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from library.core.errors import UserError
from library.data.cache.lookup import Location, Segment, merged, segment_of, without_shards
from library.data.cache.mending import mended_if_free, tell_of_lost_rows, warn_once
from library.data.cache.shards import (
    HEAD,
    ROW,
    Bytes,
    Keys,
    annul,
    is_whole,
    rows_between,
    shard_named,
    shards_in,
)

OPEN_AT_ONCE = 128
"""Files of data kept open."""

USE_NOTED_EVERY = 3600.0
"""Seconds between two notes that a shard is in use; the note is its data's time of change."""


class DataFile:
    """A shard's data, open for reading by any number of threads."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._lock = Lock()
        status = os.fstat(self._file)
        if time.time() - status.st_mtime > USE_NOTED_EVERY:
            with suppress(OSError):  # a folder for reading only is nobody's to prune
                os.utime(path)

    def __del__(self) -> None:
        with suppress(AttributeError):  # could not be opened
            os.close(self._file)

    def read(self, offset: int, size: int) -> Bytes:
        """The bytes there, fewer where the file ends; in memory of the caller's own."""
        buffer = np.empty(size, np.uint8)
        if hasattr(os, "preadv"):
            return buffer[: os.preadv(self._file, [buffer.data], offset)]
        with self._lock:  # Windows knows no reading without moving
            os.lseek(self._file, offset, os.SEEK_SET)
            data = os.read(self._file, size)
        return np.frombuffer(bytearray(data), np.uint8)


class Known(NamedTuple):
    """A shard whose index was read."""

    name: str
    inode: int
    size: int
    """Bytes of the index that were read."""


class ShardReader:
    """The entries of a folder of shards. Threads may share it; after a fork each process goes on with its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: list[Segment] = []
        self._known: dict[int, Known] = {}
        self._files: dict[int, DataFile] = {}
        self._next = 0
        self._refreshing = RLock()
        self.holds = False
        """Whether data stay open: see `hold`."""
        self.lost = False
        """A shard that was known has been removed."""

    def refresh(self) -> None:
        """Read what was added to the folder since, and forget what was removed.

        Raises:
            UserError: the folder cannot be read.
        """
        with self._refreshing:
            try:
                self._refresh()
            except OSError as error:
                raise _unreadable(error, self.folder) from error

    def _refresh(self) -> None:
        there = shards_in(self.folder)
        numbers = {known.name: number for number, known in self._known.items()}
        gone = {
            number
            for number, known in self._known.items()
            if known.name not in there
            or there[known.name].st_ino != known.inode
            or there[known.name].st_size < known.size
        }
        if self.holds:
            gone -= set(self._files)  # what is open can be read on
        self.lost = self.lost or bool(gone)
        found = [
            segment
            for name, status in there.items()
            if (segment := self._new_entries(name, status, None if numbers.get(name) in gone else numbers.get(name)))
        ]
        self._drop(gone)
        self._add(found)

    def hold(self) -> None:
        """Keep data open from now on, so that removing the files does no harm: those in use, and the newest, OPEN_AT_ONCE at most.

        Raises:
            UserError: a file cannot be read.
        """
        self.holds = True
        ages = {number: self._last_used(known.name) for number, known in self._known.items()}
        for number in sorted(ages, key=ages.__getitem__, reverse=True):
            if len(self._files) < OPEN_AT_ONCE and number not in self._files and self._opened(number) is None:
                self.lost = True

    def _last_used(self, name: str) -> float:
        try:
            return shard_named(self.folder, name).data.stat().st_mtime
        except OSError:
            return 0.0

    def lengths(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Length of each key's payload as the indexes have it, 0 where there is none; (n,) for keys (n, 20)."""
        found = np.zeros(len(keys), np.int64)
        for segment in self._segments:
            missing = np.flatnonzero(found == 0)
            found[missing] = segment.lengths(keys[missing])
        return found

    def payload(self, key: bytes) -> Bytes | None:
        """The key's payload, checked; None where there is none. Damaged records are annulled, with a warning.

        Raises:
            UserError: a file cannot be read.
        """
        for segment, position in self._found(key):
            shard, offset, length = (int(number) for number in segment.places[:, position])
            record = self._read(Location(shard, offset, length))
            if record is not None and is_whole(record, key):
                return record[HEAD.size :]
            segment.places[2, position] = 0
            if record is not None:
                self._annul(shard, key, offset)
        return None

    def for_this_process(self) -> ShardReader:
        """The same in a process that was forked, where a lock may be held by a thread that was not."""
        forked = copy.copy(self)
        forked._files, forked._known, forked._refreshing = dict(self._files), dict(self._known), RLock()
        return forked

    @property
    def entries(self) -> int:
        """Records that the indexes name, those of one key in several shards each counted."""
        return sum(len(segment) for segment in self._segments)

    @property
    def nbytes(self) -> int:
        """Memory of the indexes."""
        return sum(s.prefixes.nbytes + s.rests.nbytes + s.places.nbytes for s in self._segments)

    def _found(self, key: bytes) -> Iterator[tuple[Segment, int]]:
        for segment in self._segments:
            for position in segment.positions(key):
                yield segment, position

    def _new_entries(self, name: str, status: os.stat_result, number: int | None) -> Segment | None:
        """Of a shard's index, from where it was read to last; all of it where it was not known."""
        start = 0 if number is None else self._known[number].size
        stop = status.st_size // ROW.itemsize * ROW.itemsize
        if start == stop:
            return None
        shard = shard_named(self.folder, name)
        try:
            rows, lost = rows_between(shard, start, stop)
            if lost:
                tell_of_lost_rows(shard, lost, mended_if_free(shard))
                stop = shard.index.stat().st_size // ROW.itemsize * ROW.itemsize
                rows, _ = rows_between(shard, start, stop)
        except FileNotFoundError:  # removed since it was listed
            return None
        if number is None:
            number, self._next = self._next, self._next + 1
        self._known[number] = Known(name, status.st_ino, stop)
        return segment_of(rows, number)

    def _drop(self, gone: set[int]) -> None:
        if not gone:
            return
        self._segments = [without_shards(segment, gone) for segment in self._segments]
        for number in gone:
            del self._known[number]
            self._files.pop(number, None)

    def _add(self, found: list[Segment]) -> None:
        """Few segments, each much larger than the next: so each entry is sorted a few times at most."""
        if not found:
            return
        segments = [*self._segments, merged(found)]
        while len(segments) > 1 and len(segments[-2]) < 4 * len(segments[-1]):
            segments[-2:] = [merged(segments[-2:])]
        self._segments = segments

    def _read(self, location: Location) -> Bytes | None:
        """The record there; None where its shard has been removed, which is no damage."""
        file = self._files.get(location.shard) or self._opened(location.shard)
        if file is None:
            return None
        try:
            return file.read(location.offset, HEAD.size + location.length)
        except OSError as error:
            raise _unreadable(error, self.folder, self._known[location.shard].name) from error

    def _opened(self, shard: int) -> DataFile | None:
        known = self._known.get(shard)
        if known is None:
            return None
        try:
            file = DataFile(shard_named(self.folder, known.name).data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error, self.folder, known.name) from error
        surplus = max(0, len(self._files) + 1 - OPEN_AT_ONCE)
        for oldest in list(self._files)[:surplus]:  # of a copy, since other threads open files too
            self._files.pop(oldest, None)
        self._files[shard] = file
        return file

    def _annul(self, shard: int, key: bytes, offset: int) -> None:
        known = self._known.get(shard)
        if known is None:
            return
        path = shard_named(self.folder, known.name)
        warn_once(f"cache file {path.data} is damaged: entries that are not whole are struck out, and made anew.")
        with suppress(
            OSError
        ):  # read-only or gone: this process has forgotten the entry, another finds the damage itself
            annul(path.index, key, offset)


def _unreadable(error: OSError, folder: Path, shard: str = "") -> UserError:
    path = shard_named(folder, shard).data if shard else folder
    return UserError(
        f"cache file {path}: {error.strerror or error}. Delete the folder {folder}, which is always safe, or name another "
        "cache_dir."
    )
