"""What the caches hold, looked at from outside."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from library.core.disk import reading
from library.core.files import DAY
from library.data.cache.mending import Mended, mended_if_free
from library.data.cache.shards import (
    HEAD,
    ROW,
    Rows,
    Shard,
    annul,
    is_whole,
    read_rows,
    rows_between,
    shard_named,
    shards_in,
)

KINDS = ("latents", "texts")
"""Folders of shards, in the folder of the caches."""

FORMER_ENTRY = re.compile(r"\.?[0-9a-f]{40}\.safetensors(\.[0-9a-f]{8}\.tmp)?")
"""A file of the layout that had one for each entry, in a folder named by its key's first two digits."""


@dataclass(frozen=True)
class ShardFacts:
    """What is known of a shard without reading its data."""

    shard: Shard
    entries: int
    size: int
    """Bytes of its files."""
    useless: int
    """Bytes of data that no row leads to, or that a record in another place stands for too."""
    used: float
    """When an entry was last read or added, as seconds since 1970; to the hour."""


@dataclass(frozen=True)
class Contents:
    """What a folder of shards holds."""

    folder: Path
    shards: list[ShardFacts]
    former: list[Path]
    """Folders of the layout that had a file for each entry, which is not read any more."""
    strays: list[Path]
    """Halves of shards, as somebody leaves them who is killed while he makes or removes one."""


def contents(folder: Path) -> Contents:
    """Look at a folder of shards.

    Raises:
        UserError: it cannot be read.
    """
    with reading(folder):
        listed = sorted(folder.iterdir()) if folder.is_dir() else []
        shards = [shard_named(folder, name) for name in shards_in(folder)]
        whole = {path for shard in shards for path in (shard.data, shard.index)}
        halves = [path for path in listed if path.suffix in (".data", ".index") and path not in whole]
        former = [path for path in listed if re.fullmatch("[0-9a-f]{2}", path.name) and path.is_dir()]
        return Contents(folder, list(_facts(shards)), former, list(_old(halves)))


def _old(paths: Iterable[Path]) -> Iterator[Path]:
    """Those that nobody is making or removing now."""
    for path in paths:
        with suppress(FileNotFoundError):  # a shard that was removed since the folder was listed
            if path.stat().st_mtime < time.time() - DAY:
                yield path


def _facts(shards: Sequence[Shard]) -> Iterator[ShardFacts]:
    rows = [rows_of_shard(shard) for shard in shards]
    useful = first_of_each_key(rows)
    for shard, its_rows, of_use in zip(shards, rows, useful):
        try:
            data, index = shard.data.stat(), shard.index.stat()
        except FileNotFoundError:  # removed since
            continue
        live = int(its_rows["length"][of_use].sum(dtype=np.int64)) + HEAD.size * int(of_use.sum())
        yield ShardFacts(
            shard, int(of_use.sum()), data.st_size + index.st_size, max(0, data.st_size - live), data.st_mtime
        )


def rows_of_shard(shard: Shard) -> Rows:
    """The rows of its index; none where it has been removed.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return read_rows(shard.index)
    except FileNotFoundError:
        return np.zeros(0, ROW)


def first_of_each_key(rows: Sequence[Rows]) -> list[npt.NDArray[np.bool_]]:
    """For each shard's rows, which of them are the first of their key."""
    keys = np.concatenate([np.zeros(0, "S20"), *(keys_of(each) for each in rows)])
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return np.split(first, np.cumsum([len(each) for each in rows])[:-1]) if rows else []


def keys_of(rows: Rows) -> npt.NDArray[np.bytes_]:
    """(n,) the rows' keys, as bytes that compare."""
    return np.ascontiguousarray(rows["key"]).view("S20")


@dataclass(frozen=True)
class Damage:
    """What reading a folder of shards has shown."""

    entries: int
    bytes: int
    damaged: list[Path]
    """The data file of each damaged record that was struck out."""
    left: list[Path]
    """The same of those that could not be, being another user's or for reading only."""
    indexes: dict[Path, tuple[int, Mended | None]]
    """Those with damaged rows: how many, and what was done about them; None where nothing could be."""

    def __bool__(self) -> bool:
        return bool(self.damaged or self.left or self.indexes)


def verify(folder: Path, progress: bool = False) -> Damage:
    """Read and check every row and record; damaged ones are struck out, so that the next run makes them anew.

    Raises:
        UserError: a file cannot be read.
    """
    indexes: dict[Path, tuple[int, Mended | None]] = {}
    damaged: list[Path] = []
    left: list[Path] = []
    entries = size = 0
    with reading(folder):
        shards = [shard_named(folder, name) for name in shards_in(folder)]
        for shard in shards:
            with suppress(FileNotFoundError):  # removed since
                lost = rows_between(shard, 0, shard.index.stat().st_size)[1]
                if lost:
                    indexes[shard.index] = lost, mended_if_free(shard)
        rows = {shard: rows_of_shard(shard) for shard in shards}
        total = sum(int(each["length"].sum(dtype=np.int64)) for each in rows.values())
        with tqdm(
            total=total, desc=f"reading {folder.name}", unit="B", unit_scale=True, disable=not progress or not total
        ) as bar:
            for shard, row, payload in records(rows):
                bar.update(int(row["length"]))
                entries, size = entries + 1, size + int(row["length"])
                if payload is None:
                    with suppress(FileNotFoundError):  # removed since
                        (damaged if _struck_out(shard, row) else left).append(shard.data)
    return Damage(entries, size, damaged, left, indexes)


def _struck_out(shard: Shard, row: np.void) -> bool:
    """Let the row count as none; False where it may not be written.

    Raises:
        FileNotFoundError: the shard is gone.
    """
    try:
        annul(shard.index, row["key"].tobytes(), int(row["offset"]))
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def records(rows: dict[Shard, Rows]) -> Iterator[tuple[Shard, np.void, bytes | None]]:
    """Each row with its payload, in the order of the data; None where the record is damaged.

    Raises:
        OSError: they cannot be read.
    """
    for shard, its_rows in rows.items():
        try:
            file = shard.data.open("rb")
        except FileNotFoundError:  # removed since
            continue
        with file:
            for row in np.sort(its_rows, order="offset"):
                file.seek(int(row["offset"]))
                data = file.read(HEAD.size + int(row["length"]))
                record = np.frombuffer(data, np.uint8)
                whole = len(data) == HEAD.size + row["length"] and is_whole(record, row["key"].tobytes())
                yield shard, row, data[HEAD.size :] if whole else None
