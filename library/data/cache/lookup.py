"""Where each key's record is, in sorted arrays: 32 bytes an entry, and no Python object for any."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from library.data.cache.shards import Keys, Rows

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]


class Location(NamedTuple):
    """Where a record is."""

    shard: int
    """The reader's number of it."""
    offset: int
    length: int
    """Of the payload."""


class Segment:
    """Entries in the order of their keys' first 8 bytes, as numbers; the rest of the keys stands beside.

    Args:
        prefixes: (n,); sorted here.
        rests: (n, 12) uint8, the rest of the keys.
        places: (3, n): shard, offset and length.
    """

    def __init__(self, prefixes: U64, rests: Keys, places: U32) -> None:
        order = prefixes.argsort(kind="stable")
        self.prefixes, self.rests, self.places = prefixes[order], rests[order], places[:, order]

    def __len__(self) -> int:
        return len(self.prefixes)

    def positions(self, key: bytes) -> Iterator[int]:
        """Where the key stands; several times where several processes made it."""
        prefix = np.uint64(int.from_bytes(key[:8], "big"))
        position = int(self.prefixes.searchsorted(prefix))
        while position < len(self.prefixes) and self.prefixes[position] == prefix:
            if self.places[2, position] and self.rests[position].tobytes() == key[8:]:
                yield position
            position += 1

    def lengths(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Length of each key's payload, 0 where there is none."""
        found = np.zeros(len(keys), np.int64)
        wanted = _prefixes(keys)
        open_ones = np.arange(len(keys))
        positions = self.prefixes.searchsorted(wanted)
        while len(open_ones):
            inside = positions < len(self.prefixes)
            open_ones, positions = open_ones[inside], positions[inside]
            alike = self.prefixes[positions] == wanted[open_ones]
            open_ones, positions = open_ones[alike], positions[alike]
            same = (self.rests[positions] == keys[open_ones, 8:]).all(axis=1) & (self.places[2, positions] > 0)
            found[open_ones[same]] = self.places[2, positions[same]]
            open_ones, positions = open_ones[~same], positions[~same] + 1
        return found


def segment_of(rows: Rows, shard: int) -> Segment:
    """The entries of a shard's rows."""
    keys = np.ascontiguousarray(rows["key"]).view(np.uint8).reshape(-1, 20)
    places = np.stack([np.full(len(rows), shard, np.uint32), rows["offset"], rows["length"]])
    return Segment(_prefixes(keys), keys[:, 8:], places)


def merged(segments: list[Segment]) -> Segment:
    """The entries of several segments as one."""
    return Segment(
        np.concatenate([each.prefixes for each in segments]),
        np.concatenate([each.rests for each in segments]),
        np.concatenate([each.places for each in segments], axis=1),
    )


def without_shards(segment: Segment, gone: set[int]) -> Segment:
    """The entries of the shards that are still there."""
    kept = ~np.isin(segment.places[0], list(gone))
    return Segment(segment.prefixes[kept], segment.rests[kept], segment.places[:, kept])


def _prefixes(keys: Keys) -> U64:
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)
