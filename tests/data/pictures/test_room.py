"""Room in memory for pictures that are decoded beside one another."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from library.data.pictures.room import Room


def test_no_more_is_taken_than_there_is_and_a_larger_picture_is_alone() -> None:
    room, lock = Room(100), threading.Lock()
    held: list[int] = []
    most: list[list[int]] = []

    def decode(pixels: int) -> int:
        with room.taken((pixels, 1)):
            with lock:
                held.append(pixels)
                most.append([*held])
            time.sleep(0.002)
            with lock:
                held.remove(pixels)
        return pixels

    wanted = [30, 100, 1, 500, 60, 40, 50] * 5
    with ThreadPoolExecutor(max_workers=8) as pool:
        assert list(pool.map(decode, wanted)) == wanted
    assert all(sum(together) <= 100 or together == [500] for together in most)
    assert any(len(together) > 1 for together in most)


def test_room_comes_back_after_an_error() -> None:
    room = Room(10)
    for _ in range(3):
        with pytest.raises(ValueError), room.taken((5, 2)):
            raise ValueError
