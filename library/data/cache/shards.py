"""What a cache consists of on disk: shards, each a file of records and an index of them.

`NAME.data` has the records one after another. A record is a head, then the payload; the head (32 bytes) is MAGIC, a checksum
of everything behind it (the lower half of XXH3-64, which costs a tenth of the reading, where a CRC costs as much again), the
payload's length, and the key. So a record proves by itself that it is whole and what it is.

`NAME.index` has a row of 32 bytes for each record: key, offset, length, and a check of these. Rows are written after their
records are on the disk. A row of zeros is struck out, because its record is damaged. One that fails its check is damaged itself, or
torn where it is the last; it counts as none, and its record is found again in the data (mending.py).

Whoever holds the lock of `NAME.index` may append to the shard, or remove it. Nobody needs a lock to read, or to annul a row.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64

MAGIC = b"LDC2"

HEAD = struct.Struct("<4sII20s")

ROW = np.dtype([("key", "V20"), ("offset", "<u4"), ("length", "<u4"), ("check", "<u4")])

SHARD_BYTES = 256 << 20
"""Size from which on a shard gets no more records: removing what is unused is done by shards, so they should not be huge."""

KEY_BYTES = 20

Rows = npt.NDArray[np.void]
"""(n,) of ROW."""
Keys = npt.NDArray[np.uint8]
"""(n, 20)."""
Bytes = npt.NDArray[np.uint8]

_FACTORS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD3A2646D, 0xFD7046C5], np.uint32)
"""Odd, so that every flipped bit changes a sum of products with them."""


@dataclass(frozen=True)
class Shard:
    """The names of a shard's two files."""

    data: Path
    index: Path

    def is_there(self) -> bool:
        """Whether nobody has removed it, since files of a name are made once."""
        return self.data.exists() and self.index.exists()


def shard_named(folder: Path, name: str) -> Shard:
    """The shard of that name in a folder."""
    return Shard(folder / f"{name}.data", folder / f"{name}.index")


def new_shard(folder: Path) -> Shard:
    """A shard that nobody else can have made."""
    return shard_named(folder, uuid.uuid4().hex[:16])


def shards_in(folder: Path) -> dict[str, os.stat_result]:
    """Names of the shards in a folder, in order, with what the system says of their indexes; none where there is no folder.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for entry in entries}
    except FileNotFoundError:
        return {}
    found = {}
    for name in sorted(name.removesuffix(".index") for name in names if name.endswith(".index")):
        if f"{name}.data" in names:
            with suppress(FileNotFoundError):  # removed since it was listed
                found[name] = shard_named(folder, name).index.stat()
    return found


def packed(keys: Iterable[str]) -> Keys:
    """Keys of 40 hexadecimal digits as rows of bytes, (n, 20)."""
    return np.frombuffer(bytes.fromhex("".join(keys)), np.uint8).reshape(-1, KEY_BYTES)


def rows_of(keys: Keys, offsets: npt.ArrayLike, lengths: npt.ArrayLike) -> Rows:
    """Rows of an index for payloads of these lengths, in records at these offsets."""
    rows = np.zeros(len(keys), ROW)
    rows["key"] = np.ascontiguousarray(keys).view("V20").ravel()
    rows["offset"], rows["length"] = offsets, lengths
    rows["check"] = _checks(rows)
    return rows


def valid_rows(data: bytes | Bytes) -> Rows:
    """The rows of an index that are whole, of all that `data` holds; a torn one at the end is left out."""
    whole = len(data) // ROW.itemsize
    rows = np.frombuffer(data, ROW, whole)
    return rows[(rows["check"] == _checks(rows)) & (rows["length"] > 0)]


def damaged_rows(data: bytes | Bytes) -> npt.NDArray[np.bool_]:
    """Which rows of an index were neither written nor struck out so; a torn one at the end is none."""
    rows = np.frombuffer(data, ROW, len(data) // ROW.itemsize)
    nothing = np.void(bytes(ROW.itemsize))
    return ((rows["check"] != _checks(rows)) | (rows["length"] == 0)) & (rows.view(f"V{ROW.itemsize}") != nothing)


def read_rows(index: Path) -> Rows:
    """The whole rows of an index.

    Raises:
        OSError: it cannot be read.
    """
    return valid_rows(index.read_bytes())


def rows_between(shard: Shard, start: int, stop: int) -> tuple[Rows, int]:
    """The rows between two bytes of an index that lead to data, and how many are damaged or lead beyond the data.

    Raises:
        OSError: they cannot be read.
    """
    with shard.index.open("rb") as file:
        file.seek(start)
        index = file.read(stop - start)
    rows = valid_rows(index)
    inside = ends_of(rows) <= shard.data.stat().st_size
    return rows[inside], int(damaged_rows(index).sum()) + int((~inside).sum())


def ends_of(rows: Rows) -> npt.NDArray[np.int64]:
    """Where each row's record ends."""
    return rows["offset"].astype(np.int64) + HEAD.size + rows["length"]


def _checks(rows: Rows) -> npt.NDArray[np.uint32]:
    words = np.ascontiguousarray(rows).view("<u4").reshape(-1, ROW.itemsize // 4)[:, :-1]
    return (words * _FACTORS).sum(axis=1, dtype=np.uint32) + np.uint32(1)  # so that zeros are no row


def head_of(key: bytes, payload: bytes) -> bytes:
    """What stands before a payload."""
    rest = struct.pack("<I20s", len(payload), key)
    return HEAD.pack(MAGIC, _checksum(rest, payload), len(payload), key)


def _checksum(*parts: bytes | memoryview) -> int:
    checksum = xxh3_64()
    for part in parts:
        checksum.update(part)
    return checksum.intdigest() & 0xFFFFFFFF


def is_whole(record: Bytes, key: bytes | None = None) -> bool:
    """Whether every byte of a record is as it was written, and it is that of the key (None: whichever it says)."""
    if len(record) < HEAD.size:
        return False
    magic, checksum, length, said = HEAD.unpack_from(record.data)
    return (
        magic == MAGIC
        and length == len(record) - HEAD.size
        and (key is None or said == key)
        and _checksum(record[8:].data) == checksum
    )


def annul(index: Path, key: bytes, offset: int) -> None:
    """Let the row of a damaged record count as none, for all that read the index from now on.

    Raises:
        OSError: it cannot be written; it may be gone.
    """
    with index.open("rb+") as file:
        data = file.read()
        rows = np.frombuffer(data, ROW, len(data) // ROW.itemsize)
        same = (rows["key"] == np.void(key)) & (rows["offset"] == offset)
        for place in np.flatnonzero(same):
            file.seek(int(place) * ROW.itemsize)
            file.write(bytes(ROW.itemsize))
