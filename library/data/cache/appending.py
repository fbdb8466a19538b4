"""Adding entries to a folder of shards: each process to a shard that it alone holds."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np

from library.core.disk import failed_write
from library.core.errors import UserError
from library.core.files import flush_folder
from library.data.cache.locks import try_lock, unlock
from library.data.cache.shards import (
    HEAD,
    KEY_BYTES,
    ROW,
    SHARD_BYTES,
    Shard,
    annul,
    ends_of,
    head_of,
    new_shard,
    read_rows,
    rows_of,
    shard_named,
    shards_in,
)

SYNC_BYTES = 64 << 20
"""Bytes after which records are flushed to the disk, and then named in the index."""

SYNC_SECONDS = 2.0
"""The same in time: what a process that is killed loses."""

BINARY = getattr(os, "O_BINARY", 0)


class Pending(NamedTuple):
    """A record that is written and not yet named in the index."""

    offset: int
    length: int
    """Of the payload."""


@dataclass(frozen=True)
class Claim:
    """A shard that this process alone appends to."""

    shard: Shard
    index: int
    """Its index, open, with its lock."""
    locked: bool
    """Not on disks that know no locks: nobody takes up a shard there."""


def claim(shard: Shard) -> Claim | None:
    """Take a shard; None where another process has it, it is gone, or the disk knows no locks.

    Raises:
        OSError: it cannot be opened for writing.
    """
    try:
        index = os.open(shard.index, os.O_RDWR | BINARY)
    except FileNotFoundError:
        return None
    try:
        if try_lock(index) == "taken" and _is_still(shard.index, index):
            return Claim(shard, index, locked=True)
    except BaseException:
        os.close(index)
        raise
    os.close(index)
    return None


def release(claimed: Claim) -> None:
    """Let others have the shard."""
    if claimed.locked:
        unlock(claimed.index)
    os.close(claimed.index)


def remove(claimed: Claim) -> None:
    """Delete a shard and let go of it. Whoever has its data open still reads them.

    Raises:
        OSError: it cannot be removed; on Windows also where another process reads it.
    """
    if os.name == "nt":  # what is open cannot be removed there
        release(claimed)
    try:
        claimed.shard.index.unlink(missing_ok=True)
        claimed.shard.data.unlink(missing_ok=True)
    finally:
        if os.name != "nt":
            release(claimed)


class Appender:
    """Appends records to a shard that it takes at the first one; threads may share it, processes may not.

    A record is on the disk, and others find it, after `sync`, which is done by itself every SYNC_BYTES and SYNC_SECONDS.

    Args:
        folder: of the shards; made where it is missing.
        fresh: take no shard that is there.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        self.pending: dict[bytes, Pending] = {}
        self._fresh = fresh
        self._claim: Claim | None = None
        self._data = -1
        self._end = 0
        self._unsynced = 0
        self._synced = -math.inf
        self._lock = RLock()
        self.filled: set[Path] = set()
        """Indexes of the shards that were added to."""

    @property
    def shard(self) -> Shard | None:
        """The one that is held."""
        return None if self._claim is None else self._claim.shard

    def append(self, key: bytes, payload: bytes) -> None:
        """Add a record.

        Raises:
            UserError: it cannot be written; with `Exit.DISK_FULL` where room is lacking. What was added before is as it was.
        """
        with self._lock:
            try:
                if self._claim is None or self._end >= SHARD_BYTES or _is_removed(self._claim.index):
                    self._next_shard()
                self._write(head_of(key, payload) + payload)
            except OSError as error:
                raise self._failure(error, len(payload)) from error
            self.pending[key] = Pending(self._end, len(payload))
            self._end += HEAD.size + len(payload)
            self._unsynced += HEAD.size + len(payload)
            if self._unsynced >= SYNC_BYTES or time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()

    def read(self, key: bytes) -> bytes | None:
        """The payload of a record that no index names yet."""
        with self._lock:
            place = self.pending.get(key)
            if place is None:
                return None
            os.lseek(self._data, place.offset + HEAD.size, os.SEEK_SET)
            return os.read(self._data, place.length)

    def sync(self) -> None:
        """Flush the records to the disk, then name them in the index.

        Raises:
            UserError: as `append`.
        """
        with self._lock:
            if not self.pending or self._claim is None:
                return
            try:
                os.fsync(self._data)
                keys = np.frombuffer(b"".join(self.pending), np.uint8).reshape(-1, KEY_BYTES)
                places = np.array(list(self.pending.values()), np.int64)
                rows = rows_of(keys, places[:, 0], places[:, 1])
                start = os.lseek(self._claim.index, 0, os.SEEK_END)
                try:
                    _write_all(self._claim.index, rows.tobytes())
                except OSError:
                    os.ftruncate(self._claim.index, start)
                    raise
                os.fsync(self._claim.index)
            except OSError as error:
                raise self._failure(error) from error
            self.pending.clear()
            self._unsynced, self._synced = 0, time.monotonic()

    def close(self) -> None:
        """Flush what was added, and let others have the shard.

        Raises:
            UserError: as `append`.
        """
        with self._lock:
            try:
                self.sync()
            finally:
                self.abandon()

    def abandon(self) -> None:
        """Let go of the shard as it is; records that no index names are lost."""
        if self._claim is not None:
            os.close(self._data)
            release(self._claim)
            self._claim = None
            self.pending.clear()

    def _next_shard(self) -> None:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        claimed = None if self._fresh else self._claim_of_existing()
        self._claim = claimed or _made(self.folder)
        shard = self._claim.shard
        try:
            self._data = os.open(shard.data, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
        except OSError:
            release(self._claim)
            self._claim = None
            raise
        self._end = self._mended(self._claim)
        self._synced = -math.inf
        self.filled.add(shard.index)
        flush_folder(self.folder)

    def _claim_of_existing(self) -> Claim | None:
        """The shard with room that was used last, so that entries of one time stay together."""
        shards = [shard_named(self.folder, name) for name in shards_in(self.folder)]
        sizes: list[tuple[float, Shard]] = []
        for shard in shards:
            with suppress(FileNotFoundError):  # removed since
                status = shard.data.stat()
                if status.st_size < SHARD_BYTES:
                    sizes.append((status.st_mtime, shard))
        for _, shard in sorted(sizes, key=lambda each: each[0], reverse=True):
            claimed = claim(shard)
            if claimed is not None:
                return claimed
        return None

    def _mended(self, claimed: Claim) -> int:
        """Cut off what a killed process left without an index, and annul what is cut off itself; the end of the data."""
        torn = os.fstat(claimed.index).st_size % ROW.itemsize
        os.ftruncate(claimed.index, os.fstat(claimed.index).st_size - torn)
        rows = read_rows(claimed.shard.index)
        ends = ends_of(rows)
        cut_off = ends > os.fstat(self._data).st_size
        for row in rows[cut_off]:
            annul(claimed.shard.index, row["key"].tobytes(), int(row["offset"]))
        end = int(ends[~cut_off].max(initial=0))
        os.ftruncate(self._data, end)
        return end

    def _write(self, record: bytes) -> None:
        os.lseek(self._data, self._end, os.SEEK_SET)
        _write_all(self._data, record)

    def _failure(self, error: OSError, size: int | None = None) -> UserError:
        path = self.folder if self._claim is None else self._claim.shard.data
        told = failed_write(error, path, size)
        return UserError(
            f"{told} For caches: name another cache_dir, or cache in memory (cache_latents instead of cache_latents_to_disk).",
            told.exit_code,
        )


def _made(folder: Path) -> Claim:
    """A new shard; its index is there first, so that whoever sees the data sees whose they are."""
    shard = new_shard(folder)
    index = os.open(shard.index, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
    return Claim(shard, index, locked=try_lock(index) == "taken")


def _is_still(path: Path, file: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _is_removed(file: int) -> bool:
    """Whether an open file has no name any more."""
    return os.fstat(file).st_nlink == 0


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while len(view):
        view = view[os.write(file, view) :]
