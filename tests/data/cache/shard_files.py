"""What tests do to the files of a cache, by the layout as docs/caches.md states it, without the code under test."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

HEAD = 32
ROW = struct.Struct("<20sIII")


@dataclass(frozen=True)
class Record:
    """Where an entry is."""

    data: Path
    index: Path
    key: str
    row: int
    """Number of its row."""
    offset: int
    length: int
    """Of the payload."""

    @property
    def end(self) -> int:
        return self.offset + HEAD + self.length

    def payload(self) -> bytes:
        return self.data.read_bytes()[self.offset + HEAD : self.end]

    def write(self, place: int, what: bytes) -> None:
        """Write over the record's bytes from this place of it on."""
        with self.data.open("rb+") as file:
            file.seek(self.offset + place)
            file.write(what)

    def flip(self, bit: int) -> None:
        whole = self.data.read_bytes()
        place = self.offset + bit // 8
        self.write(bit // 8, bytes([whole[place] ^ 1 << bit % 8]))


def records(folder: Path) -> list[Record]:
    """Every entry that is not annulled, in the order of the files and rows."""
    found = []
    for index in sorted(folder.rglob("*.index")):
        content = index.read_bytes()
        for row in range(len(content) // ROW.size):
            key, offset, length, _ = ROW.unpack_from(content, row * ROW.size)
            if length:
                found.append(Record(index.with_suffix(".data"), index, key.hex(), row, offset, length))
    return found
