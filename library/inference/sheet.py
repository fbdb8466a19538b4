"""Pictures side by side, with words."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from library.data.pictures.lettering import Lettering, lettering

MARGIN = 12
MIN_SIDE = 256
"""Smaller pictures are enlarged by a whole factor, so that small models' pictures can be looked at."""


def before_and_after(
    before: Sequence[Image.Image], after: Sequence[Image.Image], captions: Sequence[str]
) -> Image.Image:
    """One row a prompt: the base model's picture, the picture with the LoRA, and the prompt beneath."""
    return contact_sheet([list(pair) for pair in zip(before, after)], captions, ["without the LoRA", "with the LoRA"])


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], headings: Sequence[str]
) -> Image.Image:
    """Rows of pictures, a caption under each row, headings above the columns.

    Several rows stand side by side where that makes the sheet less tall.
    """
    cells = [[enlarged(picture) for picture in row] for row in rows]
    width = max(sum(cell.width + MARGIN for cell in row) for row in cells)
    letters = lettering(15)
    heading_height = 28 if headings else 0
    blocks = [_block(row, caption, width, letters) for row, caption in zip(cells, captions)]
    height = max(block.height for block in blocks)
    columns = max(1, round((len(blocks) * height / width) ** 0.5))
    lines = -(-len(blocks) // columns)
    sheet = Image.new("RGB", (columns * (width + MARGIN) + MARGIN, lines * height + heading_height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for index, block in enumerate(blocks):
        sheet.paste(block, (MARGIN + (index % columns) * (width + MARGIN), heading_height + index // columns * height))
    for column in range(min(columns, len(blocks))):
        x = MARGIN + column * (width + MARGIN)
        for cell, heading in zip(cells[0], headings):
            draw.text(
                (x + cell.width / 2, heading_height / 2), letters.legible(heading), "black", letters.font, anchor="mm"
            )
            x += cell.width + MARGIN
    return sheet


def enlarged(picture: Image.Image) -> Image.Image:
    """The picture, brought to at least MIN_SIDE by a whole factor."""
    factor = max(1, MIN_SIDE // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def _block(row: Sequence[Image.Image], caption: str, width: int, letters: Lettering) -> Image.Image:
    lines = letters.lines(caption, width - MARGIN, 2)
    height = max(cell.height for cell in row)
    block = Image.new("RGB", (width, height + 20 * len(lines) + MARGIN), "white")
    x = 0
    for cell in row:
        block.paste(cell, (x, 0))
        x += cell.width + MARGIN
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, height + 3 + 20 * number), line, "black", letters.font)
    return block
