from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.generation.folder import GeneratedFolder
from library.generation.plan import Canvas, plan
from library.generation.record import Entry, entry_of
from library.generation.review import COLUMNS, LINE, MARGIN, ROWS, SIDE, write_review

CELL = SIDE + MARGIN, SIDE + 4 * LINE + MARGIN


@pytest.fixture
def entries(sheet) -> list[Entry]:
    anna = sheet(width=16, height=16, shots=["portrait", "full body"])
    return [entry_of(picture, picture.request(anna, Canvas(64, 8))) for picture in plan(anna, COLUMNS * ROWS + 2)]


@pytest.fixture
def folder(entries: list[Entry], tmp_path: Path) -> GeneratedFolder:
    made = GeneratedFolder(tmp_path, tmp_path / "10_annx")
    made.pictures.mkdir()
    for entry in entries:
        Image.new("RGB", (16, 16), (0, entry.number * 7, 0)).save(made.picture(entry))
    return made


def test_every_picture_is_on_a_page_with_words_under_it(folder: GeneratedFolder, entries: list[Entry]) -> None:
    first, second = write_review(folder, entries)
    assert (first.name, second.name) == ("sheet.png", "sheet-2.png")
    page = np.asarray(Image.open(first))
    assert page.shape == (ROWS * CELL[1] + MARGIN, COLUMNS * CELL[0] + MARGIN, 3)
    assert Image.open(second).size == (2 * CELL[0] + MARGIN, CELL[1] + MARGIN)
    for index, entry in enumerate(entries[: COLUMNS * ROWS]):
        x, y = MARGIN + index % COLUMNS * CELL[0], MARGIN + index // COLUMNS * CELL[1]
        assert tuple(page[y + SIDE // 2, x + SIDE // 2]) == (0, entry.number * 7, 0)
        assert page[y + SIDE + 2 : y + SIDE + 3 * LINE, x : x + SIDE].min() < 60, "words under the picture"


def test_what_is_weeded_out_leaves_the_sheet(folder: GeneratedFolder, entries: list[Entry]) -> None:
    write_review(folder, entries)
    for entry in entries[:3]:
        folder.reject(entry)
    (page,) = write_review(folder, entries)
    assert sorted(path.name for path in folder.review.glob("*.png")) == ["sheet.png"], "no page is left over"
    assert Image.open(page).getpixel((MARGIN + 9, MARGIN + 9)) == (0, 28, 0), "the fourth comes first"


def test_a_picture_that_cannot_be_read_is_grey(folder: GeneratedFolder, entries: list[Entry]) -> None:
    folder.picture(entries[0]).write_bytes(b"no picture")
    (page,) = write_review(folder, entries[:2])
    assert Image.open(page).getpixel((MARGIN + 9, MARGIN + 9)) == (211, 211, 211)


def test_large_pictures_become_small(folder: GeneratedFolder, entries: list[Entry]) -> None:
    Image.new("RGB", (300, 900), "navy").save(folder.picture(entries[0]))
    (page,) = write_review(folder, entries[:1])
    sheet = np.asarray(Image.open(page))
    blue = (sheet == (0, 0, 128)).all(axis=2)
    assert blue.any(axis=1).sum() == SIDE and 84 <= blue.any(axis=0).sum() <= 86
