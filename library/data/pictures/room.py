"""Room in memory for pictures that threads decode beside one another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

from library.data.pictures.buckets import Size

MOST_AT_ONCE = 300_000_000
"""Pixels being decoded at the same time: 5 GB where they have an opacity, 17 bytes each, else half of it."""


class Room:
    """Room for so many pixels, shared by threads."""

    def __init__(self, pixels: int = MOST_AT_ONCE) -> None:
        self._free = self._all = pixels
        self._changed = Condition()

    @contextmanager
    def taken(self, size: Size) -> Iterator[None]:
        """Within the block there is room for a picture of this size; a larger one than all the room has it to itself."""
        pixels = min(size[0] * size[1], self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()
