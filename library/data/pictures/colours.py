"""Colours as they are meant: colour profiles, bit depths, palettes and transparency, all brought to sRGB of 8 bits."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

UNREADABLE = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError, RuntimeError, struct.error,
    zlib.error, Image.DecompressionBombError, ImageCms.PyCMSError,
)  # fmt: skip
"""What Pillow raises on damaged files, colour profiles included."""

ROWS_AT_A_TIME = 64
"""Of deep grey, which takes four times the memory while it is scaled."""


def to_srgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours in sRGB, those behind transparent pixels included, and the opacity where any of it is transparent.

    Raises:
        UNREADABLE: one of those where the pixels cannot be converted.
    """
    if image.mode.startswith("I"):
        return _from_deep_grey(image)
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no other way out of grey that was multiplied by its opacity
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        is_grey = image.mode in ("L", "LA")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        # The colours as stored, those behind transparent pixels included; converting to RGB drops the opacity only.
        image = image.getchannel("R") if is_grey else image.convert("RGB")
        alpha = None if alpha.getextrema()[0] == 255 else alpha
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    try:
        transform = _transform(profile, image.mode) if profile else None
    except UNREADABLE:
        transform = None  # told by the preflight
    converted = ImageCms.applyTransform(image, transform) if transform is not None else None
    return converted or image.convert("RGB"), alpha


def _from_deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """16-bit grey scaled to 8 bits; Pillow's own conversion clips everything above 255 to white."""
    grey, opacity = Image.new("L", image.size), Image.new("L", image.size)
    stated = image.info.get("transparency")  # the level that is transparent
    level = stated if isinstance(stated, int) else None
    for top in range(0, image.height, ROWS_AT_A_TIME):
        rows = image.crop((0, top, image.width, min(top + ROWS_AT_A_TIME, image.height)))
        levels_HW = np.asarray(rows).clip(0, 65535).astype(np.int32)
        grey.paste(Image.fromarray(((levels_HW * 255 + 32767) // 65535).astype(np.uint8)), (0, top))
        opacity.paste(Image.fromarray(np.where(levels_HW == level, 0, 255).astype(np.uint8)), (0, top))
    return grey.convert("RGB"), None if opacity.getextrema()[0] == 255 else opacity


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From colours of the profile to sRGB; None where they are sRGB, or the profile is for another kind of colours.

    Raises:
        UNREADABLE: one of those where the profile cannot be used.
    """
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    kinds = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
    if kinds.get(source.profile.xcolor_space.strip()) != mode:
        return None
    if mode == "RGB" and "srgb" in (source.profile.profile_description or "").lower():
        return None
    return ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def has_broken_profile(image: Image.Image, mode: str) -> bool:
    """Whether it has a colour profile that cannot be used; `mode` is the kind of pixels in its file."""
    kind = {"CMYK": "CMYK", "L": "L", "LA": "L", "La": "L", "1": "L"}.get(mode, "RGB")
    profile = image.info.get("icc_profile")
    try:
        if profile:
            _transform(profile, kind)
    except UNREADABLE:
        return True
    return False
