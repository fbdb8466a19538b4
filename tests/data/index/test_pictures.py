from __future__ import annotations

import pickle
from mmap import mmap
from pathlib import Path

import numpy as np

from library.data.index.pictures import ROW, Picture, PicturesInTheMaking, SubsetFacts
from tests.data.columns import pictures_of


def some() -> list[Picture]:
    return [
        Picture(
            Path("a") / f"{number}.png", 64 + number, 32, f"caption {number}", number % 2, 0, number == 3, 1 + number % 2,
            Path("a") / f"{number}.txt" if number else None, None, f"{number:040x}",
        )
        for number in range(6)
    ]  # fmt: skip


def test_pictures_come_back_as_they_were() -> None:
    listed = some()
    pictures = pictures_of(listed)
    assert list(pictures) == listed and pictures[-1] == listed[-1] and len(pictures) == 6
    assert list(pickle.loads(pickle.dumps(pictures))) == listed
    assert [pictures.caption(row) for row in range(6)] == [each.caption for each in listed]


def test_some_of_them() -> None:
    listed = some()
    pictures = pictures_of(listed)
    assert list(pictures[2:4]) == listed[2:4]
    assert list(pictures[np.array([4, 1])]) == [listed[4], listed[1]]
    assert list(pictures[pictures.of_subsets("is_reg").astype(bool)]) == [listed[3]]
    assert list(pictures.of_subsets("dataset")) == [0, 1] * 3
    assert len(pictures[:0]) == 0 and list(pictures_of([])) == []


def test_hashes_that_end_in_zeros_differ() -> None:
    endings = ["00", "0000", "01", "ff", "0100"]
    listed = [
        Picture(Path(str(n)), 1, 1, "", 0, 0, False, 1, content=ending.rjust(40, "a"))
        for n, ending in enumerate(endings)
    ]
    assert len(np.unique(pictures_of(listed).contents_N)) == 5


def test_a_picture_takes_less_than_a_hundred_bytes() -> None:
    making = PicturesInTheMaking()
    rows_N = np.zeros(300_000, ROW)
    rows_N["name"] = [making.texts.add(f"{number:07d}.png") for number in range(len(rows_N))]
    rows_N["caption"] = [
        making.texts.add(f"hero, a caption of usual length, {number}, " + "tag, " * 15) for number in range(len(rows_N))
    ]
    rows_N["caption_name"] = [making.texts.add(f"{number:07d}.txt") for number in range(len(rows_N))]
    making.add(SubsetFacts(Path(), 0, 0, False, 10), rows_N)
    pictures = making.finished()
    assert isinstance(pictures.texts._buffer, mmap), "the system may drop it"
    assert (pictures.rows_N.nbytes + pictures.texts._starts.nbytes) / len(rows_N) < 70
