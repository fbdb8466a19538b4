"""The contact sheet, looked at pixel by pixel where that tells something."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFilter

from library.core.errors import UserError
from library.data.checks.findings import Finding
from library.data.index.sources import Survey
from library.data.pictures.images import PictureError
from library.data.pictures.lettering import lettering
from library.preflight.cards import cards, shown
from library.preflight.sheet import (
    COLOURS,
    COLUMNS,
    EMPTY,
    FRAME,
    GAP,
    HEAD,
    LINE,
    NOTES,
    ROWS,
    SIDE,
    write_sheet,
)


@pytest.fixture
def folder(tmp_path: Path, picture) -> Path:
    for number in range(10):
        picture(tmp_path / f"pictures/{number}.png", (64, 64), number, "anna")
    return tmp_path / "pictures"


def frame(sheet: Image.Image, number: int) -> str:
    """Name of the colour round the picture in that place."""
    columns = (sheet.width - GAP) // (SIDE + GAP)
    assert number < columns, "in the first row"
    found = sheet.getpixel((GAP + number * (SIDE + GAP) - 3, HEAD + SIDE // 2))
    names = {ImageColor.getrgb(colour): name for name, colour in {**COLOURS, "good": FRAME}.items()}
    return names[found]  # type: ignore[index]


def test_those_with_problems_stand_first(folder: Path, tmp_path: Path, checked) -> None:
    with Image.open(folder / "3.png") as image:
        image.filter(ImageFilter.GaussianBlur(8)).save(folder / "3.png")
    (folder / "5.txt").unlink()
    (folder / "8.png").write_bytes(b"")
    found = checked()
    extra = Finding("mask", "error", str(folder / "9.png"), "has no mask.")
    chosen = cards(found.survey.pictures, found.datasets, [*found.report.findings, extra], 6)
    names = [card.path.name for card in chosen]
    assert names[0] == "9.png" and set(names[1:3]) == {"5.png", "8.png"} and names[3:] == ["3.png", "0.png", "1.png"]
    files = write_sheet(tmp_path / "s.png", "t", found.survey, found.datasets, [*found.report.findings, extra], 6)
    assert files == [tmp_path / "s.png"]
    with Image.open(files[0]) as sheet:
        frames = [frame(sheet, number) for number in range(6)]
    assert frames == ["error", "warning", "warning", "notice", "good", "good"]


def test_of_copies_both_are_marked_and_stand_side_by_side(folder: Path, checked) -> None:
    shutil.copy(folder / "2.png", folder / "9.png")
    with Image.open(folder / "4.png") as image:
        image.save(folder / "7.jpg", quality=97)
    (folder / "7.txt").write_text("anna", encoding="utf-8")
    found = checked()
    chosen = cards(found.survey.pictures, found.datasets, found.report.findings, 50)
    names = [card.path.name for card in chosen]
    assert abs(names.index("2.png") - names.index("9.png")) == 1
    marked = {
        card.path.name: {(each.kind, Path(each.message.rstrip(".").split()[-1]).name) for each in card.findings}
        for card in chosen
    }
    assert ("copy", "9.png") in marked["2.png"] and ("copy", "2.png") in marked["9.png"]
    assert ("near copy", "7.jpg") in marked["4.png"] and ("near copy", "4.png") in marked["7.jpg"]
    assert ("same name", "7.png") in marked["7.jpg"] and ("same name", "7.jpg") in marked["7.png"]
    assert not marked["0.png"]


def test_what_is_left_out_says_on_its_tile_what_to_do(folder: Path, tmp_path: Path, checked) -> None:
    (folder / "raw.cr2").write_bytes(b"II*\0raw")
    found = checked()
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("library.preflight.sheet._placeholder", lambda draw, at, reason: said.append(reason))
        write_sheet(tmp_path / "s.png", "t", found.survey, found.datasets, found.report.findings, 50)
    assert said == ["is a .cr2 file, which is not read. Export it as PNG or JPEG."]


def test_pages(folder: Path, tmp_path: Path, picture, checked) -> None:
    for number in range(10, COLUMNS * ROWS + 3):
        shutil.copy(folder / "1.png", folder / f"{number}.png")
    found = checked("--caption_prefix", "anna")
    files = write_sheet(tmp_path / "new/s.png", "t", found.survey, found.datasets, found.report.findings, 500)
    assert [file.name for file in files] == ["s.png", "s-2.png"] and all(file.is_file() for file in files)
    with Image.open(files[0]) as first, Image.open(files[1]) as second:
        assert first.width == COLUMNS * (SIDE + GAP) + GAP and second.height < first.height
    once_more = write_sheet(files[0], "t", found.survey, found.datasets, found.report.findings, 5)
    assert once_more == files[:1] and not files[1].exists(), "a page of the former sheet would tell of former problems"


def test_no_picture_makes_no_sheet(folder: Path, tmp_path: Path, checked) -> None:
    found = checked()
    assert write_sheet(tmp_path / "s.png", "t", Survey(found.survey.pictures[:0], []), found.datasets, [], 5) == []
    assert not (tmp_path / "s.png").exists()


def test_what_is_cut_away_is_faded(tmp_path: Path, checked) -> None:
    """A red picture twice as wide as high, trained as a square: the quarters at its ends are lost."""
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (256, 128), (255, 0, 0)).save(tmp_path / "pictures" / "a.png")
    found = checked()
    (card,) = cards(found.survey.pictures, found.datasets, [], 5)
    pixels_HWC = np.asarray(shown(card, 200))
    assert pixels_HWC.shape == (100, 200, 3)
    kept = (pixels_HWC[50] == [255, 0, 0]).all(axis=1)
    assert not kept[:50].any() and kept[52:148].all() and not kept[150:].any()
    assert (pixels_HWC[:, 20, 0] == 255).all() and (pixels_HWC[:, 20, 1] > 100).all()
    (anywhere,) = cards(checked("--random_crop").survey.pictures, checked("--random_crop").datasets, [], 5)
    assert (np.asarray(shown(anywhere, 200)) == [255, 0, 0]).all(), "no crop is the crop where it is drawn"


def test_pictures_are_upright_and_opaque(tmp_path: Path, checked) -> None:
    (tmp_path / "pictures").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGB", (120, 60), "blue")
    wide.paste("red", (0, 0, 60, 60))
    wide.save(tmp_path / "pictures" / "turned.png", exif=exif)
    Image.new("RGBA", (60, 60), (0, 0, 255, 0)).save(tmp_path / "pictures" / "clear.png")
    found = checked("--background_color", "#00ff00", "--random_crop")
    by_name = {card.path.name: shown(card, 100) for card in cards(found.survey.pictures, found.datasets, [], 5)}
    assert by_name["turned.png"].size == (50, 100)
    assert by_name["turned.png"].getpixel((25, 10)) == (255, 0, 0), "turned to the right, the left end is on top"
    assert by_name["clear.png"].getpixel((50, 50)) == (0, 255, 0)


def test_a_picture_that_is_gone_has_its_place(folder: Path, tmp_path: Path, checked) -> None:
    found = checked()
    (folder / "2.png").unlink()
    (card,) = [card for card in cards(found.survey.pictures, found.datasets, [], 50) if card.path.name == "2.png"]
    with pytest.raises(PictureError, match="cannot be read"):
        shown(card, 50)
    lone = replace(found.survey, pictures=found.survey.pictures[2:3])
    (file,) = write_sheet(tmp_path / "s.png", "t", lone, found.datasets, [], 50)
    with Image.open(file) as sheet:
        pixels_HWC = np.asarray(sheet)[HEAD : HEAD + SIDE, GAP : GAP + SIDE]
    corners = [tuple(pixels_HWC[y, x]) for y, x in ((20, 20), (20, -21), (-21, 20), (-21, -21))]
    assert corners == [ImageColor.getrgb(FRAME)] * 4, "a cross from corner to corner"
    assert tuple(pixels_HWC[20, SIDE // 2]) == ImageColor.getrgb(EMPTY)
    dark_HW = (pixels_HWC < 100).all(axis=2)
    assert dark_HW[SIDE // 3 : -SIDE // 3].any() and not dark_HW[: SIDE // 3].any(), "the reason stands in the middle"


def test_names_of_every_script_can_be_read(folder: Path, tmp_path: Path, picture, checked) -> None:
    for name in ("写真 😀", "été", "\x1b[2J", "a" * 200, "\u202ecod"):
        picture(folder / f"{name}.png", (64, 64), len(name), "anna")
    found = checked()
    chosen = cards(found.survey.pictures, found.datasets, [], 50)
    (file,) = write_sheet(tmp_path / "s.png", "写真 😀", found.survey, found.datasets, [], 50)
    with Image.open(file) as sheet:
        pixels_HWC = np.asarray(sheet).astype(int)
    assert (pixels_HWC[GAP : GAP + 24, GAP:300] < 100).all(axis=2).any(), "the title"
    for number in range(len(chosen)):
        x, y = GAP + number % COLUMNS * (SIDE + GAP), HEAD + number // COLUMNS * (SIDE + NOTES - 2 * LINE)
        name_HW = (pixels_HWC[y + SIDE + 10 : y + SIDE + 28, x : x + SIDE] < 100).all(axis=2)
        beyond_HW = (pixels_HWC[y + SIDE + 10 : y + SIDE + 28, x + SIDE : x + SIDE + GAP] < 100).all(axis=2)
        assert name_HW.any() and not beyond_HW.any(), chosen[number].path.name
    letters = lettering(14)
    assert letters.legible("été a b.png") == "ete a b.png"
    assert letters.legible("写😀\x1b\u202e") == "\\u5199\\U0001f600\\x1b\\u202e"
    cut = letters.cut("one_very_long_name_of_a_picture_001.png", 150)
    assert letters.width(cut) <= 150 and cut.startswith("one_v") and cut.endswith("001.png") and "..." in cut
    lines = letters.lines("some words that need more than two lines to be told in full", 100, 2)
    assert len(lines) == 2 and lines[1].endswith("...") and all(letters.width(line) <= 100 for line in lines)


def test_a_place_that_cannot_be_written_is_named(folder: Path, tmp_path: Path, checked) -> None:
    (tmp_path / "file").write_text("")
    found = checked()
    with pytest.raises(UserError, match="file"):
        write_sheet(tmp_path / "file" / "s.png", "t", found.survey, found.datasets, [], 5)
