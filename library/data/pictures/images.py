"""Opening pictures rightly: their kind, size and orientation; then resize and crop."""

from __future__ import annotations

import functools
import io
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image, ImageColor, UnidentifiedImageError

from library.data.pictures.buckets import Size
from library.data.pictures.colours import UNREADABLE, has_broken_profile, to_srgb
from library.data.pictures.placement import Placement

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
"""Kinds of pictures that are read, whatever the file's ending; Pillow's rarer readers stay shut."""

MODES = frozenset(
    {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L"}
)
"""Pillow's kinds of pixels that are converted."""

MOST_PIXELS = 150_000_000

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "box": Image.Resampling.BOX,
}

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the stored pixels upright."""


class PictureError(Exception):
    """A file that cannot be used as a picture; the message is the reason."""


@dataclass(frozen=True)
class Decoded:
    """An upright picture in sRGB. What lies behind transparent pixels is still in `rgb`."""

    rgb: Image.Image
    alpha: Image.Image | None
    """The opacity, one channel of 8 bits, where any of it is transparent."""


@dataclass(frozen=True)
class Inspected:
    """What is known of a picture that decodes."""

    size: Size
    """Of the upright picture."""
    kind: str
    """One of FORMATS."""
    animated: bool
    profile_broken: bool
    """It has a colour profile that cannot be used."""
    transparent: bool
    """Some of it is."""
    invisible: bool
    """All of it is, altogether."""
    grey: Image.Image
    """Upright, at most as large as was asked, to judge its looks by; what is transparent is white."""


def silence_pillow_on_sizes() -> None:
    """Keep Pillow's warning of many pixels off the terminal, in the whole process: what has more than MOST_PIXELS is refused by name."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def picture_size(data: bytes) -> Size:
    """Width and height of the upright picture, from the file's header.

    Raises:
        PictureError: not a picture, or one with too many pixels.
    """
    image = _opened(io.BytesIO(data), data[:512])
    return _turned(image.size, image)


def check_opens(path: Path) -> None:
    """See whether a file begins as a picture; none of its pixels are read.

    Raises:
        PictureError: it cannot be read, or is no picture.
    """
    try:
        with path.open("rb") as file:
            _opened(file, file.read(512))
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror or error}).") from error


def decode(data: bytes) -> Decoded:
    """The first frame of a picture file, decoded to its last byte.

    Raises:
        PictureError: damaged, truncated, of an unknown kind, or with too many pixels.
    """
    image = _opened(io.BytesIO(data), data[:512])
    rgb, alpha = _loaded(image)
    turn = UPRIGHT.get(orientation(image))
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), alpha.transpose(turn) if alpha is not None else None
    return Decoded(rgb, alpha)


def inspect(data: bytes, area: int = 512 * 512) -> Inspected:
    """Decode every byte, and keep no more than a small grey picture.

    Args:
        area: pixels that it may have.

    Raises:
        PictureError: as `decode`.
    """
    image = _opened(io.BytesIO(data), data[:512])
    size, mode = image.size, image.mode
    scale = min(1.0, (area / (size[0] * size[1])) ** 0.5)
    small = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    # A JPEG's bytes are all read, but no more pixels computed than are needed.
    image.draft("L" if mode == "RGB" else None, small)
    decoded = Decoded(*_loaded(image))
    grey = over_background(decoded, "white").convert("L")
    grey = grey if grey.size == small else grey.resize(small, Image.Resampling.BOX)
    turn = UPRIGHT.get(orientation(image))
    return Inspected(
        size=_turned(size, image),
        kind="JPEG" if image.format == "MPO" else image.format or "",
        animated=_is_animated(image),
        profile_broken=has_broken_profile(image, mode),
        transparent=decoded.alpha is not None,
        invisible=decoded.alpha is not None and decoded.alpha.getextrema()[1] == 0,
        grey=grey if turn is None else grey.transpose(turn),
    )


def thumbnail(data: bytes, longest: int, background: str = "white") -> Image.Image:
    """The upright picture in sRGB without transparency, scaled down to have no side above `longest`.

    Raises:
        PictureError: as `decode`.
    """
    image = _opened(io.BytesIO(data), data[:512])
    scale = min(1.0, longest / max(image.size))
    small = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image.draft(None, small)  # of a JPEG no more pixels are computed than are needed
    decoded = Decoded(*_loaded(image))
    shown = over_background(decoded, background)
    shown = shown if shown.size == small else shown.resize(small, Image.Resampling.BOX)
    turn = UPRIGHT.get(orientation(image))
    return shown if turn is None else shown.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, the EXIF data are damaged, or Pillow turns the picture by itself."""
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except UNREADABLE:
        return 1
    return value if value in UPRIGHT else 1


def over_background(decoded: Decoded, color: str) -> Image.Image:
    """The picture with its transparent parts filled with a colour (a name or #rrggbb)."""
    if decoded.alpha is None:
        return decoded.rgb
    background = Image.new("RGB", decoded.rgb.size, ImageColor.getrgb(color)[:3])
    return Image.composite(decoded.rgb, background, decoded.alpha)


def placed(image: Image.Image, placement: Placement, interpolation: str | None) -> Image.Image:
    """Resized, cropped and mirrored as the placement says; without a named filter by area averages where it becomes smaller."""
    if image.size != placement.resized:
        grows = any(before < after for before, after in zip(image.size, placement.resized))
        image = image.resize(placement.resized, FILTERS[interpolation or ("lanczos" if grows else "area")])
    if image.size != placement.target:
        image = image.crop(placement.box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if placement.flip else image


def jittered(image: Image.Image, rng: random.Random) -> Image.Image:
    """One picture in three with its hue turned by up to 16 degrees or its gamma changed by up to 5% (`color_aug`)."""
    if rng.random() >= 1 / 3:
        return image
    if rng.random() < 0.5:
        hue, saturation, value = image.convert("HSV").split()
        shift = round(rng.uniform(-16, 16) * 256 / 360)
        turned = hue.point([(level + shift) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    gamma = rng.uniform(0.95, 1.05)
    return image.point([round(255 * (level / 255) ** gamma) for level in range(256)] * 3)


def decode_mask(data: bytes) -> Image.Image:
    """A mask file's red channel (masks are grey as a rule; sd-scripts reads red). Raises PictureError as `decode`."""
    return decode(data).rgb.getchannel("R")


def _opened(file: IO[bytes], start: bytes) -> Image.Image:
    if not start:
        raise PictureError("is empty (0 bytes).")
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
        raise PictureError("is a web page or drawing in text, not a picture.")
    file.seek(0)
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError as error:
        raise PictureError(f"is not a picture of a kind that is read ({', '.join(_formats())}).") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"has too many pixels; at most {MOST_PIXELS // 10**6} million.") from error
    except UNREADABLE as error:
        raise _unreadable(error) from error
    if image.width * image.height > MOST_PIXELS:
        raise PictureError(
            f"has too many pixels ({image.width}x{image.height}); at most {MOST_PIXELS // 10**6} million."
        )
    return image


@functools.cache
def _formats() -> list[str]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _turned(size: Size, image: Image.Image) -> Size:
    """Size once the picture is upright."""
    return size[::-1] if orientation(image) >= 5 else size


def _loaded(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Read the pixels; the colours in sRGB, and the opacity where any of it is transparent."""
    try:
        image.load()
        if image.mode not in MODES:
            raise PictureError(f"has pixels of a kind that is not read ({image.mode}); save it as PNG or JPEG in RGB.")
        return to_srgb(image)
    except UNREADABLE as error:
        raise _unreadable(error) from error


def _is_animated(image: Image.Image) -> bool:
    """Several frames; a camera's MPO holds one picture in several sizes or views."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except UNREADABLE:
        return True  # the first frame was read; those after it are damaged


def _unreadable(error: Exception) -> PictureError:
    return PictureError(f"cannot be decoded ({str(error).rstrip('.') or type(error).__name__}).")
