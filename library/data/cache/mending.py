"""Mending a shard's index: rows that are damaged, or lead beyond the data, go, and what the data hold is named again."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np

from library.core.wording import how_many
from library.data.cache.claims import Claim, claim, release
from library.data.cache.shards import (
    HEAD,
    KEY_BYTES,
    MAGIC,
    ROW,
    Rows,
    Shard,
    damaged_rows,
    ends_of,
    is_whole,
    read_rows,
    rows_of,
)

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class Mended:
    """What was wrong with an index."""

    damaged: int
    """Rows that were struck out."""
    found_again: int
    """Whole records that no row led to, and one does now."""


@cache
def warn_once(text: str) -> None:
    """Tell of damage that several readers of this process meet."""
    log.warning("warning: %s", text)


def tell_of_lost_rows(shard: Shard, lost: int, mended: Mended | None) -> None:
    """Warn of rows of an index that lead nowhere, and say what became of them."""
    told = f"cache file {shard.index} is damaged in {how_many(lost, 'place')}"
    if mended is None:
        warn_once(f"{told}, and cannot be mended now: another process adds to it, or it is for reading only.")
    else:
        warn_once(
            f"{told}. Entries found again in its data: {mended.found_again}; others are made anew when they are needed."
        )


def mended_if_free(shard: Shard) -> Mended | None:
    """Mend the index; None where another process has the shard, it is gone, or may not be written."""
    with suppress(OSError):
        claimed = claim(shard)
        if claimed is not None:
            try:
                return mend(claimed)
            finally:
                release(claimed)
    return None


def mend(claimed: Claim) -> Mended:
    """Strike out rows as `strike_out`, and name every whole record that no row leads to.

    Raises:
        OSError: the shard cannot be read or written.
    """
    damaged = strike_out(claimed)
    found = _unnamed(claimed.shard, read_rows(claimed.shard.index))
    if len(found):
        write_at(claimed.index, os.lseek(claimed.index, 0, os.SEEK_END), found.tobytes())
        os.fsync(claimed.index)
    return Mended(damaged, len(found))


def strike_out(claimed: Claim) -> int:
    """Cut off a torn row of the index, and let those count as none that are damaged or lead beyond the data; how many these are.

    Raises:
        OSError: the shard cannot be read or written.
    """
    index = claimed.shard.index.read_bytes()
    whole = len(index) // ROW.itemsize
    os.ftruncate(claimed.index, whole * ROW.itemsize)
    useless = damaged_rows(index) | (ends_of(np.frombuffer(index, ROW, whole)) > claimed.shard.data.stat().st_size)
    for place in np.flatnonzero(useless):
        write_at(claimed.index, int(place) * ROW.itemsize, bytes(ROW.itemsize))
    return int(useless.sum())


def _unnamed(shard: Shard, named: Rows) -> Rows:
    """Rows for the whole records that lie between and behind the named ones."""
    named = np.sort(named, order="offset")
    starts = [0, *ends_of(named).tolist()]
    keys, offsets, lengths = [], [], []
    with shard.data.open("rb") as file:
        stops = [*named["offset"].tolist(), file.seek(0, os.SEEK_END)]
        for start, stop in zip(starts, stops):
            if stop - start > HEAD.size:
                file.seek(start)
                for key, offset, length in _records(file.read(stop - start)):
                    keys.append(key)
                    offsets.append(start + offset)
                    lengths.append(length)
    return rows_of(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES), offsets, lengths)


def _records(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Key, offset and length of the payload of each whole record."""
    offset = data.find(MAGIC)
    while 0 <= offset <= len(data) - HEAD.size:
        _, _, length, key = HEAD.unpack_from(data, offset)
        end = offset + HEAD.size + length
        whole = length > 0 and end <= len(data) and is_whole(np.frombuffer(data, np.uint8)[offset:end])
        if whole:
            yield key, offset, length
        offset = data.find(MAGIC, end if whole else offset + 1)


def write_at(file: int, place: int, data: bytes) -> None:
    """Write all of it there.

    Raises:
        OSError: it cannot be written.
    """
    os.lseek(file, place, os.SEEK_SET)
    view = memoryview(data)
    while len(view):
        view = view[os.write(file, view) :]
