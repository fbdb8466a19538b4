from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from library.data.pictures import looks
from library.data.pictures.looks import (
    ALIKE,
    BLURRED,
    DEAD_ZONE,
    FEWEST_BITS,
    SIDES,
    Bits,
    difference_hash,
    earlier_lookalikes,
    exposure,
    is_dark,
    is_empty,
    is_overexposed,
    nearest_side,
    sharpness,
    sharpness_by_side,
    spread,
)

DEMO = Path(__file__).resolve().parents[3] / "demo"

DRAWINGS = sorted((DEMO / "training_data").rglob("*.png"))


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


def test_sharpness_at_every_size() -> None:
    grey = photograph(0, 1024)
    values = sharpness_by_side(grey)
    assert tuple(values) == SIDES
    for factor, side in enumerate(SIDES):
        halved = np.asarray(grey).astype(float).reshape(side, 2**factor, side, 2**factor).mean(axis=(1, 3))
        assert values[side] == pytest.approx(sharpness(Image.fromarray(halved.round().astype(np.uint8))), rel=0.05)
    soft = sharpness_by_side(grey.filter(ImageFilter.GaussianBlur(5)))
    assert soft[1024] < soft[512] < BLURRED < 20 * BLURRED < soft[128]


def test_small_wide_and_large_pictures_have_their_sharpness_too() -> None:
    wide = photograph(1).crop((0, 0, 400, 100))  # an area of 200 squared
    values = sharpness_by_side(wide)
    assert values[1024] == values[512] == values[256] == sharpness(wide)
    assert values[128] == sharpness(wide.resize((256, 64), Image.Resampling.BOX))
    assert set(sharpness_by_side(Image.new("L", (300, 2))).values()) == {0.0}
    large = photograph(2).resize((1400, 1400))
    assert sharpness_by_side(large)[1024] == sharpness(large.resize((1024, 1024), Image.Resampling.BOX))


def test_the_nearest_size_counts() -> None:
    assert [nearest_side(side) for side in (2048, 768, 700, 512, 300, 91, 90, 8)] == [0, 0, 1, 1, 2, 3, 4, 4]


def developed(light_HW: np.ndarray, stops: float = 0.0) -> Image.Image:
    """A photograph of a scene: so many stops longer exposed, cut off at white, sRGB's curve (IEC 61966-2-1), a sensor's noise."""
    light_HW = (light_HW * 2.0**stops).clip(0, 1)
    curve_HW = np.where(light_HW <= 0.0031308, 12.92 * light_HW, 1.055 * light_HW ** (1 / 2.4) - 0.055)
    noise_HW = np.random.default_rng(9).normal(0, 1.5, light_HW.shape)
    return Image.fromarray((curve_HW * 255 + noise_HW).clip(0, 255).astype(np.uint8))


def scene(seed: int, grey: float = 0.18, contrast: float = 1.2, side: int = 512) -> np.ndarray:
    """Light that varies around a grey by so many stops (standard deviation), over all sizes as in nature."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequencies[0, 0] = 1
    white = np.random.default_rng(seed).standard_normal((side, side))
    stops_HW = np.fft.ifft2(np.fft.fft2(white) / frequencies**1.2).real
    return grey * 2.0 ** (stops_HW / stops_HW.std() * contrast)


def with_face(light_HW: np.ndarray, skin: float, size: float) -> np.ndarray:
    """The same with a lit oval, dark eyes and mouth in it, of that share of the side."""
    side = len(light_HW)
    y_HW, x_HW = np.mgrid[:side, :side] / side - 0.5
    oval_HW = (x_HW / 0.8) ** 2 + y_HW**2 < size**2
    light_HW = np.where(oval_HW, scene(5, skin, 0.35, side), light_HW)
    for x, y, radius in ((-0.3, -0.2, 0.12), (0.3, -0.2, 0.12), (0, 0.45, 0.15)):
        light_HW[np.hypot(x_HW - x * size, y_HW - y * size) < radius * size] = skin * 0.12
    return light_HW


def strokes(level: int, side: int = 1024) -> Image.Image:
    """A drawing in thin lines on white."""
    image = Image.new("L", (side, side), 255)
    for points in np.random.default_rng(3).integers(0, side, (40, 3, 2)):
        ImageDraw.Draw(image).line([tuple(point) for point in points.tolist()], fill=level, width=side // 256)
    return image


def blobs() -> Image.Image:
    """Pale flat shapes on white."""
    image = Image.new("L", (512, 512), 255)
    for level, (left, top, size) in zip(
        (190, 210, 230, 200), np.random.default_rng(1).integers(60, 250, (4, 3)).tolist()
    ):
        ImageDraw.Draw(image).ellipse((left, top, left + size, top + size), fill=level)
    return image.filter(ImageFilter.GaussianBlur(2))


def ramp(dark: float, light: float) -> np.ndarray:
    return np.repeat(np.linspace(light, dark, 512)[:, None], 512, axis=1)


WELL_EXPOSED: dict[str, Callable[[], Image.Image]] = {
    "photograph": lambda: developed(scene(0)),
    "a stop and a half too dark": lambda: developed(scene(0), -1.5),
    "a stop too light": lambda: developed(scene(0), 1),
    "night with a lit face": lambda: developed(with_face(scene(1, 0.003), 0.35, 0.1)),
    "night with a small lit face": lambda: developed(with_face(scene(1, 0.003), 0.35, 0.06)),
    "high key": lambda: developed(with_face(np.full((512, 512), 1.2), 0.7, 0.4)),
    "before white": lambda: developed(with_face(np.full((512, 512), 1.2), 0.35, 0.2)),
    "product before a gradient": lambda: developed(with_face(ramp(0.7, 1.2), 0.3, 0.2)),
    "snow": lambda: developed(with_face(scene(7, 0.8, 0.25), 0.3, 0.1)),
    "fog": lambda: developed(scene(8, 0.5, 0.2)),
    "ink": lambda: strokes(0),
    "thin ink of a large scan": lambda: strokes(0, 2048),
    "pencil": lambda: strokes(170),
    "pale shapes": blobs,
    "white": lambda: Image.new("L", (64, 64), 255),
}


@pytest.mark.parametrize("kind", WELL_EXPOSED)
def test_pictures_as_they_should_be_are_not_called_dark_or_overexposed(kind: str) -> None:
    found = exposure(WELL_EXPOSED[kind]())
    assert not is_dark(found) and not is_overexposed(found), found


def test_neither_are_the_demo_pictures() -> None:
    found = np.array([exposure(Image.open(path).convert("L")) for path in sorted(DEMO.glob("*/*/*.png"))])
    assert len(found) > 40
    assert not is_dark(found).any() and not is_overexposed(found).any()


def on_white(level: int, lowest: int, size: int = 512) -> Image.Image:
    """A spot of that level, and a few pixels of the lowest, on white that is 96% of the picture."""
    levels_HW = np.full((size, size), 255, np.uint8)
    levels_HW[: size // 5, : size // 5] = level
    levels_HW[10:30, 10:30] = lowest
    return Image.fromarray(levels_HW)


def test_next_to_nothing_but_white_is_overexposed_unless_something_is_dark() -> None:
    """Whatever its one channels are: a cut-off cyan has no red."""
    cyan = Image.new("RGB", (512, 512), "white")
    cyan.paste((0, 255, 255), (100, 100, 200, 200))
    for image in (on_white(180, 180), on_white(240, 120), cyan.convert("L")):
        assert is_overexposed(exposure(image)), exposure(image)
    line = Image.new("L", (1024, 1024), 255)
    ImageDraw.Draw(line).line((100, 100, 900, 700), fill=0, width=2)
    wide = on_white(180, 180)
    wide.paste(200, (0, 0, 512, 80))  # 84% is white
    for image in (on_white(180, 60), line, wide):
        assert not is_overexposed(exposure(image)), exposure(image)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("side", [256, 700])
def test_pictures_that_are_far_too_dark_or_too_light(seed: int, side: int) -> None:
    light_HW = scene(seed, contrast=1.0, side=side)
    for subject in (light_HW, with_face(light_HW, 0.25, 0.25)):
        dark, fair, light = (exposure(developed(subject, stops)) for stops in (-4.5, 0, 3.3))
        assert is_dark(dark) and not is_overexposed(dark)
        assert is_overexposed(light) and not is_dark(light)
        assert not is_dark(fair) and not is_overexposed(fair)
    assert is_dark(exposure(Image.new("L", (64, 64), 5)))


def test_exposure_counts_levels() -> None:
    levels_HW = np.full((64, 64), 128, np.uint8)
    levels_HW[:16] = 10
    levels_HW[40:60, 40:60] = 255
    found = exposure(Image.fromarray(levels_HW))
    assert (found.dark, found.white, found.darkest) == (0.25, 400 / 4096, 10 / 255)
    # Of 64 cells, those from column and row 5 on: 4 wholly white, 5 partly.
    assert found.torn == 5 / 60
    # Two pixels around the white square go, and nothing at the picture's edge.
    assert found.broad == pytest.approx((4096 - 24 * 24) / (4096 - 400))


def near_copies(count: int, share: int, rng: np.random.Generator) -> list[Bits]:
    """Different hashes, and of every 20th a copy in which one bit of so many differs, in a random order."""
    bits_ND = rng.random((count, 512)) < 0.27
    copies_ND = bits_ND[::20].copy()
    for copy in copies_ND:
        moved = copy.sum() // share
        copy[rng.choice(np.flatnonzero(copy), moved, replace=False)] = False
        copy[rng.choice(np.flatnonzero(~copy), moved, replace=False)] = True
    together_ND = np.concatenate([bits_ND, copies_ND])
    return list(together_ND[rng.permutation(len(together_ND))])


@pytest.mark.parametrize("share", [10, 30])
def test_among_many_pictures_near_copies_are_found_without_comparing_all(
    share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits in common: 0.82 where one in 10 differs, next to the least that counts, 0.93 where one in 30 does."""
    hashes = near_copies(6000, share, np.random.default_rng(share))
    found = earlier_lookalikes(hashes)
    monkeypatch.setattr(looks, "EXACT_UP_TO", len(hashes))
    exact = earlier_lookalikes(np.array(hashes))
    assert sum(place is not None for place in exact) == 300
    wrong = [(one, other) for one, other in zip(found, exact) if one != other]
    assert len(wrong) <= 3 and all(one is None for one, _ in wrong)


def test_many_pictures_that_are_all_alike_or_next_to_empty_take_no_longer() -> None:
    rng = np.random.default_rng(0)
    one = rng.random(512) < 0.3
    clips = [one ^ (rng.random(512) < 0.02) for _ in range(5000)]
    empty = [np.zeros(512, bool) for _ in range(5000)]
    found = earlier_lookalikes([*empty, *clips])
    assert found[:5001] == [None] * 5001 and None not in found[5001:]
    for later, earlier in list(enumerate(found))[5001::500]:
        assert earlier is not None and 5000 <= earlier < later
        shared, either = (
            (clips[later - 5000] & clips[earlier - 5000]).sum(),
            (clips[later - 5000] | clips[earlier - 5000]).sum(),
        )
        assert either >= FEWEST_BITS and shared >= ALIKE * either


def test_spread_leaves_out_one_pixel_in_a_thousand_at_either_end() -> None:
    levels_HW = np.full((100, 100), 100, np.uint8)
    levels_HW[0, :5], levels_HW[1, :5] = 0, 255
    assert spread(Image.fromarray(levels_HW)) == 0
    levels_HW[2, :20], levels_HW[3, :20] = 90, 120
    assert spread(Image.fromarray(levels_HW)) == 30


def drawn(level: int) -> Image.Image:
    """One circle in a thin line, on white."""
    image = Image.new("L", (1024, 1024), 255)
    ImageDraw.Draw(image).ellipse((300, 300, 700, 700), outline=level, width=3)
    return image


@pytest.mark.parametrize("level", [0, 2, 128, 253, 255])
def test_one_flat_tone_is_empty_with_noise_and_compression_too(level: int) -> None:
    noise_HW = np.random.default_rng(0).normal(level, 2, (700, 500)).clip(0, 255).astype(np.uint8)
    grainy = Image.fromarray(noise_HW)
    for flat in (Image.new("L", (64, 64), level), grainy, saved_anew(grainy)):
        assert is_empty(spread(flat))
    assert is_empty(spread(developed(scene(0, contrast=1.0), 6))), "nothing but white is left of it"


def test_what_is_faint_dark_or_blurred_is_not_empty() -> None:
    shown = [
        drawn(170),
        drawn(220),
        strokes(240),
        developed(scene(0), -6),
        photograph(0).filter(ImageFilter.GaussianBlur(20)),
    ]
    faint = [blobs().point([255 - (255 - level) // 4 for level in range(256)])]
    well_exposed = [make() for kind, make in WELL_EXPOSED.items() if kind != "white"]
    demo = [Image.open(path).convert("L") for path in DRAWINGS[::4]]
    assert not is_empty([spread(grey) for grey in (*shown, *faint, *well_exposed, *demo)]).any()
