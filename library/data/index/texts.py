"""Many short texts in one piece of memory, or in a file that is mapped into it: names and captions of a million pictures."""

from __future__ import annotations

import mmap
from array import array
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_IN_MEMORY = 16 << 20
"""Bytes; more go to a file without a name, which the system may drop from memory and read again."""

SPELLING = "surrogatepass"
"""Names of files that are not UTF-8 hold halves of characters."""


class Texts:
    """Texts by number.

    Args:
        buffer: all of them in UTF-8, one after another.
        starts: where each begins, and the end of the last.
    """

    def __init__(self, buffer: bytes | mmap.mmap, starts: NDArray[np.unsignedinteger[Any]]) -> None:
        self._buffer = buffer
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        return self._buffer[self._starts[number] : self._starts[number + 1]].decode("utf-8", SPELLING)

    def __reduce__(self) -> tuple[type[Texts], tuple[bytes, NDArray[np.unsignedinteger[Any]]]]:
        """For processes that are not forked."""
        return Texts, (self._buffer[:], self._starts)


class TextsInTheMaking:
    """Takes texts one by one. The first is empty, number 0."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._file: Any = None
        self._length = 0
        self._starts = array("Q", [0, 0])
        self._last = ("", 0)

    def add(self, text: str) -> int:
        """Its number; the same text several times in a row is kept once."""
        if not text or text == self._last[0]:
            return self._last[1] if text else 0
        data = text.encode("utf-8", SPELLING)
        self._pending += data
        self._length += len(data)
        self._starts.append(self._length)
        if len(self._pending) > MOST_IN_MEMORY:
            self._spill()
        self._last = (text, len(self._starts) - 2)
        return self._last[1]

    def finished(self) -> Texts:
        """All of them; no more can be added."""
        starts = np.frombuffer(self._starts, dtype=np.uint64)
        if self._length < 1 << 32:
            starts = starts.astype(np.uint32)
        if self._file is None:
            return Texts(bytes(self._pending), starts)
        self._spill()
        self._file.flush()
        return Texts(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), starts)

    def _spill(self) -> None:
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115  # it lives as long as what is mapped
        self._file.write(self._pending)
        self._pending.clear()
