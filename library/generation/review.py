"""The contact sheet: every picture small, with its number, so that bad ones can be weeded out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from library.data.pictures.images import PictureError, decode
from library.data.pictures.lettering import lettering
from library.data.pictures.pages import write_pages
from library.generation.folder import GeneratedFolder
from library.generation.record import Entry

SIDE = 256
"""Of the square that a picture is shown in, in pixels."""
MARGIN, LINE = 14, 20
COLUMNS, ROWS = 5, 6
TOLD_FIRST = ("shot", "pose")
"""Axes of the line under a picture; the others have the line below."""


def write_review(folder: GeneratedFolder, entries: Sequence[Entry]) -> list[Path]:
    """Write sheet.png, sheet-2.png and so on of the pictures that are there, in place of former ones; returns their paths."""
    made = [entry for entry in entries if folder.state(entry) == "made"]
    pages = [made[first : first + COLUMNS * ROWS] for first in range(0, len(made), COLUMNS * ROWS)]
    sheets = (sheet_page([(entry, folder.picture(entry)) for entry in page]) for page in pages)
    return write_pages(folder.review / "sheet.png", sheets)


def sheet_page(pictures: Sequence[tuple[Entry, Path]]) -> Image.Image:
    """One page: rows of thumbnails, under each its number, what it shows, and its seed."""
    columns = min(COLUMNS, len(pictures))
    cell = SIDE + MARGIN, SIDE + 4 * LINE + MARGIN
    page = Image.new("RGB", (columns * cell[0] + MARGIN, -(-len(pictures) // columns) * cell[1] + MARGIN), "white")
    draw, letters, large = ImageDraw.Draw(page), lettering(15), lettering(19).font
    for index, (entry, path) in enumerate(pictures):
        x, y = MARGIN + index % columns * cell[0], MARGIN + index // columns * cell[1]
        thumbnail = _thumbnail(path)
        page.paste(thumbnail, (x + (SIDE - thumbnail.width) // 2, y + (SIDE - thumbnail.height) // 2))
        first = " / ".join(entry.choices[axis] for axis in TOLD_FIRST if axis in entry.choices)
        others = ", ".join(name for axis, name in entry.choices.items() if axis not in TOLD_FIRST)
        draw.text((x, y + SIDE + 1), str(entry.number), "black", large)
        draw.text((x + SIDE, y + SIDE + 5), f"seed {entry.request.seed}", "grey", letters.font, anchor="ra")
        lines = [letters.cut(first, SIDE), *letters.lines(others, SIDE, 2)]
        for number, line in enumerate(lines, start=1):
            draw.text((x, y + SIDE + 4 + LINE * number), line, "black" if number == 1 else "grey", letters.font)
    return page


def _thumbnail(path: Path) -> Image.Image:
    """The picture in a square of SIDE; a small one is enlarged by a whole factor. One that cannot be read is grey."""
    try:
        picture = decode(path.read_bytes()).rgb
    except (OSError, PictureError):
        return Image.new("RGB", (SIDE, SIDE), "lightgrey")
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return picture
    factor = SIDE // max(picture.size)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)
