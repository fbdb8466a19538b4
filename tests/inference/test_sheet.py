"""Pictures side by side: nothing is lost, nothing overlaps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from library.inference.sheet import MARGIN, MIN_SIDE, before_and_after, contact_sheet, enlarged

COLOURS = ["red", "lime", "blue", "yellow", "magenta", "cyan", "orange", "purple"]


def plain(colour: str, size: tuple[int, int] = (MIN_SIDE, MIN_SIDE)) -> Image.Image:
    return Image.new("RGB", size, colour)


def area(sheet: Image.Image, colour: str) -> int:
    """Pixels of exactly this colour."""
    wanted = np.asarray(plain(colour, (1, 1)))[0, 0]
    return int((np.asarray(sheet) == wanted).all(axis=-1).sum())


def box(sheet: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what has this colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == np.asarray(plain(colour, (1, 1)))[0, 0]).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (256, 256)),
        ((100, 60), (200, 120)),
        ((128, 256), (128, 256)),
        ((255, 10), (255, 10)),
        ((512, 768), (512, 768)),
        ((1, 1), (256, 256)),
    ],
)
def test_small_pictures_are_enlarged_by_a_whole_factor(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert enlarged(plain("red", size)).size == shown


def test_before_stands_left_of_after_and_the_prompt_beneath() -> None:
    sheet = before_and_after([plain("red")], [plain("blue")], ["a prompt"])
    before, after = box(sheet, "red"), box(sheet, "blue")
    assert area(sheet, "red") == area(sheet, "blue") == MIN_SIDE**2
    assert after[0] - before[2] == MARGIN
    assert before[1] == after[1]
    assert sheet.width >= 2 * MIN_SIDE + 3 * MARGIN
    beneath, above = sheet.crop((0, before[3], sheet.width, sheet.height)), sheet.crop((0, 0, sheet.width, before[1]))
    assert np.asarray(beneath).min() < 100, "the prompt"
    assert np.asarray(above).min() < 100, "the headings"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("headings", [[], ["only"]])
def test_every_picture_is_whole_however_many_there_are(count: int, headings: list[str]) -> None:
    sheet = contact_sheet([[plain(colour)] for colour in COLOURS[:count]], ["x"] * count, headings)
    assert [area(sheet, colour) for colour in COLOURS[:count]] == [MIN_SIDE**2] * count


def test_many_rows_stand_side_by_side() -> None:
    sheet = contact_sheet([[plain(colour)] for colour in COLOURS], ["x"] * 8, [])
    assert sheet.height < 8 * MIN_SIDE
    assert 0.4 < sheet.width / sheet.height < 2.5


def test_pictures_of_several_sizes_do_not_overlap() -> None:
    sizes = [(256, 256), (512, 300), (300, 400)]
    pictures = [plain(colour, size) for colour, size in zip(COLOURS, sizes)]
    sheet = contact_sheet([[picture] for picture in pictures], ["x"] * 3, [])
    assert [area(sheet, colour) for colour in COLOURS[:3]] == [width * height for width, height in sizes]


def test_a_long_caption_is_cut_after_two_lines_and_covers_no_picture() -> None:
    short = contact_sheet([[plain("red")]], ["word"], [])
    two = contact_sheet([[plain("red")]], ["word " * 12], [])
    long = contact_sheet([[plain("red")]], ["word " * 500], [])
    assert short.height < two.height == long.height
    assert long.width == short.width
    assert area(long, "red") == MIN_SIDE**2


def test_without_a_caption_there_is_a_sheet_all_the_same() -> None:
    assert area(contact_sheet([[plain("red")]], [""], []), "red") == MIN_SIDE**2
