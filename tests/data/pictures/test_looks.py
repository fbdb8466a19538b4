from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from library.data.pictures.looks import BLURRED, DEAD_ZONE, difference_hash, earlier_lookalikes, sharpness

DRAWINGS = sorted((Path(__file__).resolve().parents[3] / "demo" / "training_data").rglob("*.png"))


def drawings() -> list[Image.Image]:
    """Forty pictures, half of them of one character, half of them in one stance."""
    return [Image.open(path).convert("RGB") for path in DRAWINGS]


def saved_anew(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file)


def labelled(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((70, 110), "copyright", fill="white")
    return image


def noisy(image: Image.Image) -> Image.Image:
    levels_HWC = np.asarray(image) + np.random.default_rng(0).normal(0, 8, (*image.size[::-1], 3))
    return Image.fromarray(levels_HWC.clip(0, 255).astype(np.uint8))


def photograph(seed: int, side: int = 512) -> Image.Image:
    """Noise whose amplitude falls as 1/f, as that of natural pictures does (Field 1987)."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequencies[0, 0] = 1
    white = np.random.default_rng(seed).standard_normal((side, side))
    levels_HW = np.fft.ifft2(np.fft.fft2(white) / frequencies).real
    return Image.fromarray((levels_HW / levels_HW.std() * 50 + 128).clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved anew": saved_anew,
    "half the size": lambda image: image.resize((64, 64)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "paler": lambda image: ImageEnhance.Color(image).enhance(0.5),
    "labelled": labelled,
    "noisy": noisy,
}


def hashed(image: Image.Image) -> np.ndarray:
    return difference_hash(image.convert("L"))


def test_different_pictures_of_one_character_or_stance_do_not_look_alike() -> None:
    assert len(DRAWINGS) == 40
    assert earlier_lookalikes([hashed(image) for image in drawings()]) == [None] * 40


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_look_like_their_original(change: str) -> None:
    images = drawings()
    found = earlier_lookalikes([hashed(image) for image in (*images, *map(CHANGES[change], images))])
    assert found[:40] == [None] * 40
    right = sum(place == number for number, place in enumerate(found[40:]))
    assert right >= 38 and sum(place is not None for place in found[40:]) == right


def test_the_first_of_many_is_named_and_order_is_kept() -> None:
    hashes = [np.zeros(512, bool) for _ in range(600)]
    for number, bits in enumerate(hashes):
        bits[np.random.default_rng(number % 400).choice(512, 150, replace=False)] = True
    assert earlier_lookalikes(hashes) == [None] * 400 + list(range(200))
    assert earlier_lookalikes([]) == []


def test_next_to_empty_pictures_are_not_compared() -> None:
    blank = hashed(Image.new("L", (64, 64), 200))
    assert not blank.any()
    assert earlier_lookalikes([blank, blank]) == [None, None]


def test_the_hash_tells_rising_falling_and_flat() -> None:
    cells = np.full((16, 17), 100, np.uint8)
    cells[3, 4:] += DEAD_ZONE + 1
    cells[5, 9:] -= DEAD_ZONE + 1
    cells[7, 2:] += DEAD_ZONE
    bits = difference_hash(Image.fromarray(cells)).reshape(2, 16, 16)
    assert [tuple(place) for place in np.argwhere(bits)] == [(0, 3, 3), (1, 5, 8)]


@pytest.mark.parametrize("kind", ["photograph", "drawing"])
def test_blurred_pictures_are_told_from_sharp_ones(kind: str) -> None:
    greys = (
        [photograph(seed) for seed in range(3)] if kind == "photograph" else [i.convert("L") for i in drawings()[::4]]
    )
    radius = 2.5 if kind == "photograph" else 4
    for grey in greys:
        assert sharpness(grey) > 20 * BLURRED
        assert sharpness(grey.filter(ImageFilter.GaussianBlur(radius))) < BLURRED


def test_a_sharp_face_before_a_blurred_background_is_sharp() -> None:
    picture = photograph(0).filter(ImageFilter.GaussianBlur(6))
    assert sharpness(picture) < BLURRED
    picture.paste(photograph(1).crop((0, 0, 150, 150)), (200, 200))
    assert sharpness(picture) > 20 * BLURRED


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    levels = grey.astype(float)
    laplacian = [
        levels[y - 1, x] + levels[y + 1, x] + levels[y, x - 1] + levels[y, x + 1] - 4 * levels[y, x]
        for y in range(1, 39)
        for x in range(1, 49)
    ]
    assert sharpness(Image.fromarray(grey)) == pytest.approx(np.var(laplacian), rel=1e-4)
    assert sharpness(Image.new("L", (2, 100))) == 0
