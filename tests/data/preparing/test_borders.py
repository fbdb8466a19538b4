from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from library.data.preparing.borders import within_borders
from tests.data.preparing.conftest import saved, smooth


def jpeg(image: Image.Image) -> Image.Image:
    import io

    return Image.open(io.BytesIO(saved(image, "JPEG", quality=75))).convert("RGB")


def bordered(size: tuple[int, int], colour: str, box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", size, colour)
    image.paste(smooth(box[2] - box[0], box[3] - box[1], seed=3), box[:2])
    return image


@pytest.mark.parametrize(
    ("colour", "box"),
    [
        ("black", (0, 50, 400, 250)),
        ("black", (60, 0, 340, 300)),
        ("white", (30, 30, 370, 270)),
        ("white", (10, 20, 380, 260)),
        ("#204060", (1, 1, 399, 299)),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_bars_and_frames_are_found(colour: str, box: tuple[int, int, int, int], compressed: bool) -> None:
    image = bordered((400, 300), colour, box)
    found = within_borders(jpeg(image) if compressed else image)
    assert max(abs(one - other) for one, other in zip(found, box)) <= (4 if compressed else 0), found


def test_a_letterbox_within_a_frame() -> None:
    image = Image.new("RGB", (400, 300), "white")
    image.paste(bordered((360, 260), "black", (0, 40, 360, 220)), (20, 20))
    assert within_borders(image) == (20, 60, 380, 240)


def test_what_is_no_border_stays() -> None:
    figure = Image.new("RGB", (400, 300), "white")
    ImageDraw.Draw(figure).ellipse((120, 30, 280, 290), fill="navy")
    sky = np.full((300, 400, 3), 255, np.uint8)
    sky[150:] = np.asarray(smooth(400, 150, seed=1))
    whole = (0, 0, 400, 300)
    assert within_borders(figure) == whole, "a figure before a plain background"
    assert within_borders(figure.filter(ImageFilter.GaussianBlur(3))) == whole
    assert within_borders(Image.fromarray(sky)) == whole, "a border on one side only"
    assert within_borders(Image.new("RGB", (400, 300), "grey")) == whole, "nothing but one colour"
    assert within_borders(smooth(400, 300)) == whole
    assert within_borders(bordered((400, 300), "black", (190, 0, 210, 300))) == whole, "next to nothing would be left"
