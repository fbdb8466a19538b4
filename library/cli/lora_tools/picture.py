"""A LoRA's norms as a picture: a row a block, a column a kind of layer."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from library.cli.lora_tools.report import by_block
from library.lora_files.inspect import FileReport, total_norm

COLUMNS = ("self-attention", "cross-attention", "feed-forward", "projections", "resnet", "resampling", "other")
CELL = (120, 30)
LEFT, TOP, MARGIN = 70, 70, 12
COLDEST, HOTTEST = (247, 247, 250), (178, 24, 43)


def draw_norms(report: FileReport) -> Image.Image:
    """The heat map; cells without a layer stay empty."""
    blocks = by_block(report.sites)
    columns = [column for column in COLUMNS if any(site.layer == column for site in report.sites)]
    norms = {
        (block, column): total_norm(members)
        for block, sites in blocks
        for column in columns
        if (members := [site for site in sites if site.layer == column])
    }
    highest = max(norms.values(), default=0.0)
    size = (LEFT + len(columns) * CELL[0] + MARGIN, TOP + len(blocks) * CELL[1] + MARGIN)
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    draw.text((MARGIN, MARGIN), f"{report.path.stem}: norm of the change at strength 1", "black", font)
    for number, column in enumerate(columns):
        draw.text((LEFT + (number + 0.5) * CELL[0], TOP - 14), column, "black", font, anchor="mm")
    for line, (block, _) in enumerate(blocks):
        y = TOP + line * CELL[1]
        draw.text((MARGIN, y + CELL[1] / 2), block, "black", font, anchor="lm")
        for number, column in enumerate(columns):
            if (block, column) in norms:
                norm = norms[block, column]
                warmth = norm / highest if highest > 0 else 0.0
                x = LEFT + number * CELL[0]
                draw.rectangle((x + 1, y + 1, x + CELL[0] - 1, y + CELL[1] - 1), _colour(warmth))
                ink = "white" if warmth > 0.6 else "black"
                draw.text((x + CELL[0] / 2, y + CELL[1] / 2), f"{norm:.3g}", ink, font, anchor="mm")
    return picture


def _colour(warmth: float) -> tuple[int, int, int]:
    """Between both ends, `warmth` from 0 to 1."""
    red, green, blue = (round(cold + (hot - cold) * warmth) for cold, hot in zip(COLDEST, HOTTEST, strict=True))
    return red, green, blue
