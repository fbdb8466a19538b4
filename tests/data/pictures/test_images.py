from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from library.data.pictures.colours import to_srgb
from library.data.pictures.images import (
    PictureError,
    decode,
    decode_mask,
    inspect,
    jittered,
    over_background,
    picture_size,
    placed,
)
from library.data.pictures.placement import Placement, centred, mirrored
from library.data.pictures.tensors import to_mask, to_pixels


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of any bit depth and kind of pixels, which Pillow does not write; `rows` without their filter bytes."""
    length = max(1, len(rows) // height)
    lines = b"".join(b"\0" + rows[start : start + length] for start in range(0, len(rows), length))
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in body
    )


def corners() -> Image.Image:
    """48x32; red, green, blue, white corners, so that every turn shows."""
    image = Image.new("RGB", (48, 32))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for colour, place in zip(colours, [(0, 0), (24, 0), (0, 16), (24, 16)]):
        image.paste(colour, (*place, place[0] + 24, place[1] + 16))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_exif_orientations_come_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    # What a viewer must do to the stored pixels (EXIF 2.3, table 6), undone here to store them.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    upright_HWC = np.asarray(corners())
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright_HWC)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {
        "JPEG": {"quality": 100, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    data = saved(stored, kind, exif=exif, **options.get(kind, {}))
    path = tmp_path / "picture"
    path.write_bytes(data)

    decoded_HWC = np.asarray(decode(data).rgb).astype(int)
    assert picture_size(data) == inspect(data).size == decode(data).rgb.size == (48, 32)
    assert np.abs(decoded_HWC - upright_HWC).max() <= 8


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels_HW = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    rgb_HWC = np.asarray(decode(saved(Image.fromarray(levels_HW))).rgb)
    assert np.array_equal(rgb_HWC[..., 0], np.rint(levels_HW / 257.0).astype(np.uint8))
    assert (rgb_HWC[..., 0] == rgb_HWC[..., 2]).all()


def test_the_transparent_level_of_16_bit_grey() -> None:
    levels_HW = np.full((32, 32), 0x8080, ">u2")
    levels_HW[:, :16] = 0x1234
    levels_HW[0, 31] = 0x1235  # the same as the transparent one in 8 bits
    decoded = decode(png(32, 32, 16, 0, levels_HW.tobytes(), (b"tRNS", struct.pack(">H", 0x1234))))
    filled_HWC = np.asarray(over_background(decoded, "#0a141e"))
    assert filled_HWC[0, 0].tolist() == [10, 20, 30]
    assert filled_HWC[1, 31].tolist() == [128] * 3 and filled_HWC[0, 31].tolist() == [18] * 3


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colours_and_opacity(kind: int, channels: int) -> None:
    levels_HWC = np.random.default_rng(0).integers(0, 65536, (32, 32, channels)).astype(">u2")
    decoded = decode(png(32, 32, 16, kind, levels_HWC.tobytes()))
    rgb_HWC = np.asarray(decoded.rgb).astype(float)
    colours = levels_HWC[..., :3] if channels > 2 else levels_HWC[..., :1]
    assert np.abs(rgb_HWC - colours / 257.0).max() <= 1
    assert (decoded.alpha is None) == (channels == 3)
    if decoded.alpha is not None:
        assert np.abs(np.asarray(decoded.alpha) - levels_HWC[..., -1] / 257.0).max() <= 1


def test_big_endian_16_bit_tiff() -> None:
    levels_HW = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(">u2")
    image = Image.frombytes("I;16B", (64, 64), levels_HW.tobytes())
    rgb_HWC = np.asarray(decode(saved(image, "TIFF")).rgb)
    assert np.array_equal(rgb_HWC[..., 0], np.rint(levels_HW.astype(float) / 257.0).astype(np.uint8))


def premultiplied_tiff(grey: int, opacity: int, side: int = 32) -> bytes:
    """A TIFF of grey that is multiplied by its opacity (ExtraSamples 1), which Pillow reads and does not write."""
    pixels = bytes([grey * opacity // 255, opacity]) * side * side
    tags = [(256, side), (257, side), (258, 8 | 8 << 16), (259, 1), (262, 1), (273, 8), (277, 2), (278, side)]
    entries = [struct.pack("<HHII", tag, 3, 2 if tag == 258 else 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in ((279, 4, len(pixels)), (338, 3, 1))]
    table = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + table


@pytest.mark.parametrize("opacity", [128, 255])
def test_grey_that_is_multiplied_by_its_opacity(opacity: int) -> None:
    data = premultiplied_tiff(200, opacity)
    assert Image.open(io.BytesIO(data)).mode == "La"
    decoded = decode(data)
    assert np.abs(np.asarray(decoded.rgb).astype(int) - 200).max() <= 2
    assert (decoded.alpha is None) == (opacity == 255)
    expected = 200 * opacity / 255 + 255 - opacity
    assert np.abs(np.asarray(inspect(data).grey).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("read", [decode, inspect])
def test_a_profile_that_fails_in_use_is_told(read: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise ImageCms.PyCMSError("cannot be used")

    data = saved(corners(), icc_profile=gamma_profile(1.8))
    monkeypatch.setattr(ImageCms, "applyTransform", fail)
    with pytest.raises(PictureError, match="cannot be used"):
        read(data)


def test_scaling_16_bit_grey_takes_little_memory() -> None:
    image = Image.fromarray(np.full((1030, 1024), 0x8080, np.uint16))
    tracemalloc.start()
    rgb, _ = to_srgb(image)
    peak = tracemalloc.get_traced_memory()[1]  # without Pillow's own
    tracemalloc.stop()
    assert rgb.getpixel((1023, 1029)) == (128, 128, 128)
    assert peak < 2 * 2**20  # what is scaled in one go takes 8 MiB and more


@pytest.mark.parametrize(
    ("ink", "expected"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_jpeg(ink: tuple[int, ...], expected: tuple[int, ...]) -> None:
    data = saved(Image.new("CMYK", (32, 32), ink), "JPEG", quality=95)
    assert np.abs(np.asarray(decode(data).rgb).astype(int)[16, 16] - expected).max() <= 4


def gamma_profile(gamma: float) -> bytes:
    """An RGB profile with sRGB's primaries and a plain power curve: the sRGB profile with its curves exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    offset = len(profile)
    profile += curve + bytes(-len(curve) % 4)
    tags = struct.unpack(">I", profile[128:132])[0]
    for entry in range(132, 132 + 12 * tags, 12):
        if profile[entry : entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            profile[entry + 4 : entry + 12] = struct.pack(">II", offset, len(curve))
        if profile[entry : entry + 4] == b"desc":
            start, size = struct.unpack(">II", profile[entry + 4 : entry + 12])
            profile[start : start + size] = bytes(profile[start : start + size]).replace(
                b"\0s\0R\0G\0B", b"\0d\0e\0m\0o"
            )
    profile[:4] = struct.pack(">I", len(profile))
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_colour_profile_is_applied(mode: str) -> None:
    image = Image.new(mode, (32, 32), (128, 64, 200, 90)[: len(mode)])
    decoded = decode(saved(image, icc_profile=gamma_profile(1.0)))
    linear = np.array([128, 64, 200]) / 255
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(np.asarray(decoded.rgb)[16, 16] - 255 * srgb).max() <= 1.5
    assert (decoded.alpha is not None) == (mode == "RGBA")


def test_an_srgb_profile_changes_nothing_and_a_broken_one_is_told() -> None:
    image = Image.new("RGB", (32, 32), (128, 64, 200))
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (own, b"not a profile"):
        data = saved(image, icc_profile=profile)
        assert np.asarray(decode(data).rgb)[0, 0].tolist() == [128, 64, 200]
        assert inspect(data).profile_broken == (profile != own)


def test_transparency_is_filled_with_the_background() -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 16, 32))  # hidden green
    image.paste((0, 0, 255, 128), (16, 16, 32, 32))
    decoded = decode(saved(image))
    filled_HWC = np.asarray(over_background(decoded, "#0a141e"))
    assert filled_HWC[0, 0].tolist() == [10, 20, 30]
    assert filled_HWC[0, 31].tolist() == [255, 0, 0]
    assert np.abs(filled_HWC[31, 31] - np.array([10 * 127, 20 * 127, 30 * 127 + 255 * 128]) / 255).max() <= 1
    assert decoded.alpha is not None and decoded.alpha.getpixel((31, 31)) == 128


@pytest.mark.parametrize("mode", ["P", "LA", "L"])
def test_transparency_of_palettes_and_greys(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (32, 32), 0)
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.paste(1, (0, 0, 16, 32))
        data = saved(image, transparency=b"\xff\x00")
        kept = [255, 0, 0]
    elif mode == "LA":
        image = Image.new("LA", (32, 32), (100, 255))
        image.paste((7, 0), (0, 0, 16, 32))
        data, kept = saved(image), [100, 100, 100]
    else:
        image = Image.new("L", (32, 32), 100)
        image.paste(7, (0, 0, 16, 32))
        data, kept = saved(image, transparency=7), [100, 100, 100]
    filled_HWC = np.asarray(over_background(decode(data), "white"))
    assert filled_HWC[0, 0].tolist() == [255, 255, 255]
    assert filled_HWC[0, 31].tolist() == kept


def test_an_opaque_alpha_channel_counts_as_none() -> None:
    assert decode(saved(Image.new("RGBA", (32, 32), (1, 2, 3, 255)))).alpha is None


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_animations(kind: str) -> None:
    first, second = Image.new("RGB", (32, 32), (200, 0, 0)), Image.new("RGB", (32, 32), (0, 0, 200))
    data = saved(first, kind, save_all=True, append_images=[second], duration=100)
    assert inspect(data).animated
    assert np.abs(np.asarray(decode(data).rgb).astype(int)[16, 16] - [200, 0, 0]).max() <= 4
    assert not inspect(saved(first, kind)).animated


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_files_are_found(kind: str, progressive: bool) -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise_HWC), kind, **({"progressive": progressive} if kind == "JPEG" else {}))
    inspect(data)
    for look in (inspect, decode):
        with pytest.raises(PictureError, match=r"cannot be decoded"):
            look(data[: len(data) * 2 // 3])


def test_pixels_that_are_decoded_are_counted(decoded: list[int]) -> None:
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF"):
        decode(saved(Image.new("RGB", (8, 4)), kind))
    assert set(decoded) == {32} and len(decoded) >= 5


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "web page"),
        (b"\n <html><body></body></html>", "web page"),
        (b"%PDF-1.7 something", "not a picture of a kind that is read"),
        (b"\x89PNG\r\n\x1a\n", "cannot be|not a picture"),
        (png(20000, 20000, 8, 2, b""), "too many pixels"),
        (png(13000, 12000, 8, 2, b""), "too many pixels"),
    ],
)
def test_files_that_are_no_pictures(decoded: list[int], data: bytes, reason: str) -> None:
    for look in (lambda: picture_size(data), lambda: inspect(data), lambda: decode(data)):
        with pytest.raises(PictureError, match=reason):
            look()
    assert decoded == []


def claiming(kind: str, side: int) -> bytes:
    """A small picture whose header claims a square of that side."""
    data = bytearray(saved(Image.new("RGB", (32, 32)), kind))
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5  # start of frame: length, precision, height, width
        data[place : place + 4] = struct.pack(">HH", side, side)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", side, side)
    elif kind == "TIFF":
        tags = struct.unpack("<I", data[4:8])[0]
        for entry in range(tags + 2, tags + 2 + 12 * struct.unpack("<H", data[tags : tags + 2])[0], 12):
            if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(data)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "TIFF"])
def test_headers_that_claim_too_much_are_refused_at_once(decoded: list[int], kind: str) -> None:
    data = claiming(kind, 20000)
    tracemalloc.start()
    for look in (lambda: picture_size(data), lambda: inspect(data), lambda: decode(data)):
        with pytest.raises(PictureError, match="too many pixels"):
            look()
    assert decoded == []
    assert tracemalloc.get_traced_memory()[1] < 1e7
    tracemalloc.stop()


def test_what_is_looked_at_is_small_and_grey() -> None:
    noise_HWC = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG"):
        grey = inspect(saved(Image.fromarray(noise_HWC), kind), area=150 * 200).grey
        assert grey.mode == "L" and grey.size == (200, 150)
        means_HW = noise_HWC.astype(float).reshape(150, 2, 200, 2, 3).mean(axis=(1, 3)) @ [0.299, 0.587, 0.114]
        assert np.corrcoef(np.asarray(grey).ravel(), means_HW.ravel())[0, 1] > 0.9
    assert inspect(saved(Image.fromarray(noise_HWC))).grey.size == (400, 300)  # never enlarged
    assert np.asarray(inspect(saved(Image.fromarray(np.full((32, 32), 0x8000, np.uint16)))).grey).max() == 128


def test_kinds_of_pixels_that_are_not_read() -> None:
    data = saved(Image.new("F", (32, 32), 0.5), "TIFF")
    for look in (inspect, decode):
        with pytest.raises(PictureError, match="kind that is not read"):
            look(data)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "RGBX"])
def test_other_kinds_of_pixels(mode: str) -> None:
    data = saved(Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode), "TIFF")
    assert inspect(data).size == (32, 32)
    assert np.asarray(decode(data).rgb).min() >= 250


def test_resize_crop_and_flip() -> None:
    image = corners()
    placement = Placement(original=(48, 32), resized=(96, 64), left=20, top=0, target=(64, 64))
    out = placed(image, placement, "lanczos")
    assert out.size == (64, 64)
    assert out.getpixel((0, 0)) == (255, 0, 0) and out.getpixel((63, 0)) == (0, 255, 0)
    assert out.getpixel((27, 0))[0] > 128 > out.getpixel((28, 0))[0]  # the seam at 48 - 20
    flipped = placed(image, mirrored(placement), "lanczos")
    assert np.array_equal(np.asarray(flipped), np.asarray(out)[:, ::-1])


def test_area_interpolation_averages() -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    means = np.asarray(grey).reshape(4, 2, 4, 2).mean(axis=(1, 3))
    out = np.asarray(placed(grey, centred((8, 8), (4, 4)), "area"))
    assert np.abs(out - means).max() <= 0.5


def test_the_filter_that_nobody_named_goes_by_whether_a_picture_grows() -> None:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8))
    for target, filter_name in (((6, 6), "area"), ((24, 24), "lanczos")):
        placement = centred((12, 12), target)
        assert np.array_equal(
            np.asarray(placed(grey, placement, None)), np.asarray(placed(grey, placement, filter_name))
        )


def test_pixels_are_between_minus_one_and_one() -> None:
    pixels_CHW = to_pixels(corners())
    assert pixels_CHW.shape == (3, 32, 48) and pixels_CHW.dtype == torch.float32
    assert pixels_CHW[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_masks_follow_their_picture_to_latent_size() -> None:
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (0, 0, 24, 32))
    placement = Placement(original=(96, 64), resized=(48, 32), left=8, top=0, target=(32, 32))
    assert to_mask(mask, placement, 8)[0].tolist() == [[1, 1, 0, 0]] * 4
    assert to_mask(mask, mirrored(placement), 8)[0].tolist() == [[0, 0, 1, 1]] * 4
    half = Placement(original=(48, 32), resized=(48, 32), left=4, top=0, target=(32, 32))
    assert to_mask(mask, half, 8)[0, 0].tolist() == [1, 1, 0.5, 0]


def test_a_mask_file_is_read_by_its_red_channel() -> None:
    assert decode_mask(saved(Image.new("RGB", (32, 32), (77, 1, 2)))).getpixel((0, 0)) == 77


def test_colour_jitter_touches_a_third_and_keeps_the_picture_alike() -> None:
    image = corners().resize((64, 64))
    before_HWC = np.asarray(image).astype(int)
    changed = 0
    for seed in range(300):
        after_HWC = np.asarray(jittered(image, random.Random(seed))).astype(int)
        changed += bool((after_HWC != before_HWC).any())
        assert np.abs(after_HWC - before_HWC).max() <= 90
    assert 60 <= changed <= 140
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    levels = {jittered(grey, random.Random(seed)).getpixel((0, 0))[0] for seed in range(300)}
    assert levels <= set(range(round(255 * (128 / 255) ** 1.05) - 1, round(255 * (128 / 255) ** 0.95) + 2))
    assert len(levels) > 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF"])
def test_damaged_bytes_are_told_or_read_alike(kind: str) -> None:
    """Whatever the damage: either both looks refuse the file as a picture, or both see the same size."""
    image, other = corners(), corners().rotate(180)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    more = {"save_all": True, "append_images": [other]} if kind in ("GIF", "WEBP", "PNG") else {}
    whole = saved(image, kind, **({} if kind in ("GIF", "BMP") else {"exif": exif, "icc_profile": profile}), **more)
    rng = random.Random(kind)
    for _ in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(6) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        seen, read = tried(inspect, bytes(data)), tried(decode, bytes(data))
        assert (seen and seen.size) == (read and read.rgb.size)


def tried(look: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return look(data)
    except PictureError:
        return None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_small_grey_picture_is_upright(turn: int, kind: str) -> None:
    """Light at the upper left, dark at the lower left, and wide, whichever way it is stored."""
    exif = Image.Exif()
    exif[0x0112] = turn
    upright = Image.new("L", (120, 60), 128)
    upright.paste(255, (0, 0, 60, 30))
    upright.paste(0, (0, 30, 60, 60))
    stored = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180], 4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_270], 8: [Image.Transpose.ROTATE_270],
    }.get(turn, [])  # fmt: skip
    image = upright
    for step in stored:
        image = image.transpose(step)
    found = inspect(saved(image.convert("RGB"), kind, exif=exif), area=60 * 30)
    assert found.size == (120, 60) and found.grey.size == (60, 30)
    corners = [found.grey.getpixel(place) for place in ((15, 7), (15, 22), (45, 7), (45, 22))]
    assert np.abs(np.subtract(corners, [255, 0, 128, 128])).max() <= 6
