"""Adding entries to a folder of shards: each process to a shard that it alone holds."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import NamedTuple

import numpy as np

from library.core.disk import failed_write
from library.core.errors import UserError
from library.core.files import flush_folder
from library.data.cache.claims import BINARY, Claim, claim, made_and_claimed, release
from library.data.cache.mending import strike_out, write_at
from library.data.cache.shards import (
    HEAD,
    KEY_BYTES,
    SHARD_BYTES,
    Shard,
    ends_of,
    head_of,
    read_rows,
    rows_of,
    shard_named,
    shards_in,
)

SYNC_BYTES = 64 << 20
"""Bytes after which records are flushed to the disk, and then named in the index."""

SYNC_SECONDS = 2.0
"""The same in time: what a process that is killed loses."""

MOST_TRIES = 5
"""Of writing to a folder that somebody is removing."""


class Pending(NamedTuple):
    """A record that is written and not yet named in the index."""

    offset: int
    length: int
    """Of the payload."""


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
        self.filled: set[Shard] = set()
        """Those that were added to."""

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
                    write_at(self._claim.index, start, rows.tobytes())
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

    def _write(self, record: bytes) -> None:
        """Write it to a shard with room; to another where somebody removes the folder at this very moment."""
        for attempt in range(MOST_TRIES):
            try:
                if self._claim is None or self._end >= SHARD_BYTES or _is_removed(self._claim.index):
                    self._next_shard()
                write_at(self._data, self._end, record)
                return
            except (FileNotFoundError, FileExistsError):  # the latter of mkdir, where a folder that was there has gone
                self.abandon()
                if attempt == MOST_TRIES - 1:
                    raise

    def _next_shard(self) -> None:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        claimed = None if self._fresh else self._claim_of_existing()
        self._claim = claimed or made_and_claimed(self.folder)
        shard = self._claim.shard
        made = 0 if claimed else os.O_CREAT  # removed data must not come back empty, as if nobody had removed them
        try:
            self._data = os.open(shard.data, os.O_RDWR | made | BINARY, 0o666)
        except OSError:
            release(self._claim)
            self._claim = None
            raise
        self.filled.add(shard)
        self._end = self._mended(self._claim)
        self._synced = -math.inf
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
        """Strike out what of the index leads nowhere, and cut off what a killed process left without one; the end of the data."""
        strike_out(claimed)
        end = int(ends_of(read_rows(claimed.shard.index)).max(initial=0))
        os.ftruncate(self._data, end)
        return end

    def _failure(self, error: OSError, size: int | None = None) -> UserError:
        path = self.folder if self._claim is None else self._claim.shard.data
        told = failed_write(error, path, size)
        return UserError(
            f"{told} For caches: name another cache_dir, or cache in memory (cache_latents instead of cache_latents_to_disk).",
            told.exit_code,
        )


def _is_removed(file: int) -> bool:
    """Whether an open file has no name any more."""
    return os.fstat(file).st_nlink == 0
