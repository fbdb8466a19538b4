from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

from library.data.pictures.images import decode, over_background
from library.data.pictures.placement import Face
from library.data.pictures.room import Room
from library.data.preparing.making import Made, Product, make
from library.data.preparing.settings import Settings
from tests.data.preparing.conftest import png_header, saved, settings_for, smooth

AS_IT_IS = settings_for(fit="none")


def made(data: bytes, settings: Settings = AS_IT_IS, face: Face | None = None) -> Product:
    return make(data, settings, face, Room())


def pixels(product: Product) -> np.ndarray:
    assert not product.made.left_out, product.made.reason
    return np.asarray(Image.open(io.BytesIO(product.picture))).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientations_come_upright_and_nothing_of_the_exif_stays(orientation: int) -> None:
    # What a viewer must do to the stored pixels (EXIF 2.3, table 6), undone here to store them.
    undo = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    upright_HWC = np.asarray(smooth(96, 64)).astype(int)
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)  # GPSLatitude
    exif[0x010F] = "Camera maker"
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright_HWC)).astype(np.uint8))
    product = made(saved(stored, "JPEG", quality=98, subsampling=0, exif=exif))
    assert np.abs(pixels(product) - upright_HWC).max() <= 8
    assert product.made.size == product.made.made_size == (96, 64)
    assert ("turned upright" in product.made.done) == (orientation != 1)
    with Image.open(io.BytesIO(product.picture)) as image:
        assert not image.getexif() and "exif" not in image.info and "icc_profile" not in image.info
    assert b"Camera maker" not in product.picture


def test_cmyk_with_and_without_a_profile() -> None:
    cyan = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    plain = made(saved(cyan, "JPEG", quality=98))
    assert plain.made.done == ("CMYK", "another format")
    assert np.abs(pixels(plain).mean((0, 1)) - [0, 255, 255]).max() < 12
    rgb_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    mismatched = made(saved(cyan, "JPEG", quality=98, icc_profile=rgb_profile))  # a profile of another kind of colours
    assert np.array_equal(pixels(mismatched), pixels(plain))
    broken = made(saved(Image.new("RGB", (64, 64), "teal"), "PNG", icc_profile=b"no profile"))
    assert "broken colour profile" in broken.made.done and "colour profile" not in broken.made.done


def test_16_bit_grey_keeps_its_levels() -> None:
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    product = made(saved(Image.fromarray(levels)))
    assert "16 bits" in product.made.done
    assert np.abs(pixels(product)[..., 0] - levels / 257).max() <= 1


def test_a_palette_with_transparency_is_filled_kept_or_masked() -> None:
    image = Image.new("P", (64, 64), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 32, 64))
    data = saved(image, transparency=1)  # the blue half
    filled = pixels(made(data, settings_for(fit="none", background_color="lime")))
    assert tuple(filled[0, 0]) == (0, 255, 0) and tuple(filled[0, 63]) == (255, 0, 0)
    kept = made(data, settings_for(fit="none", opacity="keep"))
    assert pixels(kept).shape == (64, 64, 4) and pixels(kept)[0, 0, 3] == 0 and pixels(kept)[0, 63, 3] == 255
    masked = made(data, settings_for(fit="none", opacity="mask"))
    mask = np.asarray(Image.open(io.BytesIO(masked.mask)))
    assert np.array_equal(mask[0], np.where(np.arange(64) < 32, 0, 255)) and tuple(pixels(masked)[0, 0]) == (
        255,
        255,
        255,
    )
    opaque = made(saved(smooth(64, 64)), settings_for(fit="none", opacity="mask"))
    assert np.asarray(Image.open(io.BytesIO(opaque.mask))).min() == 255, "every picture needs a mask"


def test_kept_opacity_composites_as_the_original_does() -> None:
    image = smooth(300, 200, seed=2)
    image.putalpha(smooth(300, 200, seed=5).convert("L"))
    product = made(saved(image), settings_for(fit="square", resolution=[96, 64], opacity="keep"))
    theirs = over_background(decode(saved(image)), "teal").resize((96, 64), Image.Resampling.BOX)
    ours = over_background(decode(product.picture), "teal")
    assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_animations(kind: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    product = made(saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options))
    assert "first frame" in product.made.done
    assert tuple(pixels(product)[32, 32]) == (255, 0, 0)
    with Image.open(io.BytesIO(product.picture)) as image:
        assert getattr(image, "n_frames", 1) == 1


def test_an_mpo_is_its_first_picture() -> None:
    first, second = smooth(96, 64), smooth(96, 64, seed=1)
    product = made(saved(first, "MPO", save_all=True, append_images=[second], quality=98))
    assert product.made.format == "MPO" and "first frame" not in product.made.done
    assert np.abs(pixels(product) - np.asarray(first).astype(int)).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_is_damaged_is_left_out_with_its_reason(kind: str) -> None:
    whole = saved(smooth(400, 300), kind)
    for data, word in [
        (whole[: len(whole) // 2], "truncated"),
        (b"", "empty"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"nonsense" * 9, "not a picture"),
    ]:
        product = made(data)
        assert product.made.left_out == "unreadable" and word in product.made.reason
        assert not product.picture


def test_a_bomb_is_refused_at_once() -> None:
    started = time.process_time()
    for size in [(20_000, 20_000), (13_000, 12_900), (60_000, 60_000)]:
        product = made(png_header(*size))
        assert product.made.left_out == "unreadable" and "too many pixels" in product.made.reason
    assert time.process_time() - started < 1


def test_sizes_that_are_left_out() -> None:
    assert made(saved(smooth(20, 200))).made.left_out == "unusable size"
    long = made(saved(smooth(40, 400))).made
    assert long.left_out == "unusable size" and "longer than 8:1" in long.reason
    small = made(saved(smooth(100, 200)), settings_for(min_side=128))
    assert small.made.left_out == "unusable size" and "at least 128" in small.made.reason
    assert not made(saved(smooth(128, 200)), settings_for(min_side=128)).made.left_out


def test_borders_count_before_sizes() -> None:
    image = Image.new("RGB", (300, 200), "black")
    image.paste(smooth(300, 100), (0, 50))
    product = made(saved(image), settings_for(fit="none", trim_borders=True))
    assert product.made.trimmed == (0, 50, 300, 150) == product.made.kept and product.made.made_size == (300, 100)
    assert made(saved(image), settings_for(trim_borders=True, min_side=150)).made.left_out == "unusable size"


def test_other_kinds_are_known_by_their_bytes() -> None:
    picture = smooth(96, 64)
    product = made(saved(picture, "JPEG2000", irreversible=False))
    assert np.array_equal(pixels(product), np.asarray(picture)) and product.made.format == "JPEG2000"


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heic = made(b"\0\0\0\x18ftypheic\0\0\0\0" + b"\0" * 64)
    assert heic.made.left_out == "unreadable" and "pip install pillow-heif" in heic.made.reason


def test_heic() -> None:
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    picture = smooth(96, 64)
    product = made(saved(picture, "HEIF", quality=100))
    assert product.made.format == "HEIF" and np.abs(pixels(product) - np.asarray(picture)).mean() < 5


def test_formats() -> None:
    picture = smooth(200, 150)
    picture.putalpha(smooth(200, 150, seed=4).convert("L"))
    data = saved(picture)
    png, webp, jpg = (made(data, settings_for(format=kind)) for kind in ("png", "webp", "jpg"))
    assert np.array_equal(pixels(png), pixels(webp))
    assert np.abs(pixels(png) - pixels(jpg)).max() <= 12
    with Image.open(io.BytesIO(jpg.picture)) as image:
        assert image.format == "JPEG" and all(layer[1:3] == (1, 1) for layer in image.layer), "4:4:4"  # type: ignore[attr-defined]
    kept = [made(data, settings_for(format=kind, opacity="keep")) for kind in ("png", "webp")]
    assert np.array_equal(pixels(kept[0]), pixels(kept[1])) and pixels(kept[0]).shape[-1] == 4


def test_the_manifest_gives_everything_back() -> None:
    product = made(saved(smooth(200, 150)), settings_for(fit="square", focus="face"), Face(60, 70, 20, 30))
    assert product.made.face is not None and product.made.looks
    assert Made.from_json(product.made.as_json()) == product.made
