from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from library.core.errors import UserError
from library.data.pictures.pages import write_pages


def pages(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(count)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pages_of_a_longer_sheet_go_and_nothing_else(tmp_path: Path) -> None:
    sheet = tmp_path / "s.png"
    assert [path.name for path in write_pages(sheet, pages(11))] == ["s.png", *(f"s-{n}.png" for n in range(2, 12))]
    others = ["s-22 copy.png", "s-3.png", "s-b.png", "ss-2.png", "t-2.png"]
    for name in others:
        Image.new("RGB", (4, 4), "blue").save(tmp_path / name)
    assert write_pages(sheet, pages(1)) == [sheet]
    assert names(tmp_path) == sorted(["s.png", *others]), "s-3.png is a picture of somebody's own"
    with Image.open(sheet) as page:
        assert page.getpixel((0, 0)) == (0, 0, 0)
    assert write_pages(sheet, []) == [] and names(tmp_path) == others


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        write_pages(tmp_path / "file" / "s.png", pages(1))
    assert write_pages(tmp_path / "none" / "s.png", []) == []
