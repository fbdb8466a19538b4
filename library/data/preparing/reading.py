"""Reading the originals: every kind of picture that the trainer reads, and those of which a converter is at hand."""

from __future__ import annotations

import importlib
import io
import re
from dataclasses import dataclass

from PIL import Image

from library.data.pictures.buckets import Size
from library.data.pictures.colours import UNREADABLE, has_broken_profile, to_srgb
from library.data.pictures.endings import HEIF, JXL
from library.data.pictures.images import (
    FORMATS,
    MODES,
    MOST_PIXELS,
    UPRIGHT,
    Decoded,
    PictureError,
    decode,
    orientation,
)


@dataclass(frozen=True)
class Kind:
    """A kind of picture that the trainer does not read, known by how its files begin."""

    name: str
    """Pillow's."""
    begins: re.Pattern[bytes]
    module: str = ""
    """The plugin that Pillow needs for it; "": none."""
    package: str = ""
    """In which the plugin is found."""


KINDS = (
    Kind("HEIF", re.compile(rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL), *HEIF),
    Kind("JXL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), *JXL),
    Kind("JPEG2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    Kind("PSD", re.compile(rb"8BPS")),
)


@dataclass(frozen=True)
class Header:
    """What a file says of its picture."""

    format: str
    """Pillow's name of it."""
    mode: str
    """Kind of its pixels, in Pillow's words."""
    size: Size
    """As stored: not yet upright."""
    orientation: int
    animated: bool
    has_profile: bool
    profile_broken: bool


def read_header(data: bytes) -> Header:
    """What a file's bytes say of its picture, whose pixels are not decoded yet.

    Raises:
        PictureError: not a picture that can be read here, or one with too many pixels.
    """
    kind = _special_kind(data)
    try:
        with Image.open(io.BytesIO(data), formats=[kind.name] if kind else FORMATS) as image:
            return Header(
                format=image.format or "",
                mode=image.mode,
                size=image.size,
                orientation=orientation(image),
                animated=image.format not in ("MPO", "PSD", "HEIF") and bool(getattr(image, "is_animated", False)),
                has_profile="icc_profile" in image.info,
                profile_broken=has_broken_profile(image, image.mode),
            )
    except UNREADABLE as error:
        if kind is None:
            decode(data)  # tells the reason in the trainer's words
        raise _undecodable(error) from error


def read_picture(data: bytes, header: Header) -> Decoded:
    """The first frame, upright, in sRGB.

    Raises:
        PictureError: damaged or truncated, of unknown pixels, or with too many of them.
    """
    if header.format not in {kind.name for kind in KINDS}:
        return decode(data)
    if header.size[0] * header.size[1] > MOST_PIXELS:
        raise PictureError(f"has too many pixels; at most {MOST_PIXELS // 10**6} million.")
    try:
        image = Image.open(io.BytesIO(data), formats=[header.format])
        image.load()
        if image.mode not in MODES:
            raise PictureError(f"has pixels of a kind that is not read ({image.mode}).")
        rgb, alpha = to_srgb(image)
    except UNREADABLE as error:
        raise _undecodable(error) from error
    turn = UPRIGHT.get(header.orientation)
    if turn is None:
        return Decoded(rgb, alpha)
    return Decoded(rgb.transpose(turn), None if alpha is None else alpha.transpose(turn))


def _special_kind(data: bytes) -> Kind | None:
    """The kind that the file begins as, its plugin loaded; None for those that the trainer reads.

    Raises:
        PictureError: the plugin is not installed.
    """
    kind = next((kind for kind in KINDS if kind.begins.match(data)), None)
    if kind is not None and kind.module:
        try:
            plugin = importlib.import_module(kind.module)
        except ImportError as error:
            raise PictureError(
                f"is a {kind.name} picture, which needs a plugin: `pip install {kind.package}`, and prepare again."
            ) from error
        if kind.name == "HEIF":
            plugin.register_heif_opener()
    return kind


def _undecodable(error: Exception) -> PictureError:
    return PictureError(f"cannot be decoded ({str(error).rstrip('.') or type(error).__name__}).")
