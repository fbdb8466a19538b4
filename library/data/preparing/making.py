"""One original brought to what is trained: decoded, trimmed, sized, cut and encoded. Sizes are (width, height)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from library.core.hashing import content_hash, digest
from library.data.checks.sizes import SHORTEST_SIDE, UNUSABLE, is_usable, why_unusable
from library.data.pictures.buckets import Size
from library.data.pictures.images import Decoded, PictureError, over_background, placed
from library.data.pictures.looks import Bits, difference_hash
from library.data.pictures.placement import Face, Placement
from library.data.pictures.room import Room
from library.data.preparing.borders import Box, within_borders
from library.data.preparing.fitting import Fitted, face_after, fitted
from library.data.preparing.reading import Header, read_header, read_picture
from library.data.preparing.settings import Settings

LAYOUT = 1
"""Raised when the same original and settings come to give other pixels."""

JPEG_QUALITY = 95

PNG_EFFORT = 4
"""Of 9. From here on a photograph becomes no smaller, and its writing takes twice the time and more."""

UNREADABLE = "unreadable"
"""The reason, in a word, of what cannot be decoded."""


@dataclass(frozen=True)
class Made:
    """What became of one original; as it stands in the manifest."""

    left_out: str = ""
    """Kind of the reason; "" where it was made."""
    reason: str = ""
    format: str = ""
    """Of the original, in Pillow's words."""
    size: Size = (0, 0)
    """Of the upright original."""
    made_size: Size = (0, 0)
    trimmed: Box = (0, 0, 0, 0)
    """What lies within its borders."""
    kept: Box = (0, 0, 0, 0)
    """The part of the original that is left."""
    lost: float = 0.0
    """Share of what lies within the borders that was cut off."""
    done: tuple[str, ...] = ()
    """In a word each: "turned upright", "resized", "CMYK", ..."""
    face: tuple[int, int, int, int] | None = None
    """Centre and size of the face that the original's name tells of, in the made picture."""
    looks: str = ""
    """Its difference hash, 8 bits in two digits."""
    content: str = ""
    """Hash of the made file."""
    mask_content: str = ""
    """Hash of the mask file; "" without one."""

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    @staticmethod
    def from_json(table: Mapping[str, Any]) -> Made:
        """The opposite of `as_json`."""
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
        }
        return Made(**known)

    @property
    def bits(self) -> Bits:
        """Its looks, to be compared."""
        return np.unpackbits(np.frombuffer(bytes.fromhex(self.looks), dtype=np.uint8)).astype(np.bool_)


@dataclass(frozen=True)
class Product:
    """What became of an original, with the files' bytes."""

    made: Made
    picture: bytes = field(default=b"", repr=False)
    mask: bytes = field(default=b"", repr=False)


def key_of(content: str, settings: Settings, face: Face | None) -> str:
    """Of what an original becomes: its bytes, everything that is done to it, and the face that its name tells of."""
    numbers = json.dumps(None if face is None else asdict(face))
    return digest("prepared", str(LAYOUT), content, settings.text(), numbers)


def make(data: bytes, settings: Settings, face: Face | None, room: Room) -> Product:
    """Bring the bytes of a picture file to what is trained; a picture that cannot be used is told by its reason.

    Args:
        face: in pixels of the upright original.
        room: for its pixels, shared with others.
    """
    try:
        header = read_header(data)
        with room.taken(header.size):
            return made_of(read_picture(data, header), header, settings, face)
    except PictureError as error:
        return Product(Made(UNREADABLE, str(error)))


def made_of(decoded: Decoded, header: Header, settings: Settings, face: Face | None) -> Product:
    """As `make`, of a decoded picture."""
    size = decoded.rgb.size
    flat = over_background(decoded, settings.background_color)
    box = within_borders(flat) if settings.trim_borders else (0, 0, *size)
    about = Made(format=header.format, size=size, trimmed=box)
    inner = box[2] - box[0], box[3] - box[1]
    shortest = max(SHORTEST_SIDE, settings.min_side)
    if not is_usable(np.array(inner[0]), np.array(inner[1]), shortest):
        return Product(replace(about, left_out=UNUSABLE, reason=why_unusable(inner, shortest)))
    within = None if face is None else replace(face, centre_x=face.centre_x - box[0], centre_y=face.centre_y - box[1])
    fit = fitted(inner, settings, within)
    image, mask = _treated(decoded, flat, box, fit.placement, settings)
    picture, mask_file = encoded(image, settings.format), b"" if mask is None else encoded(mask, "png")
    shown = (
        over_background(Decoded(image.convert("RGB"), image.getchannel("A")), "white") if "A" in image.mode else image
    )
    moved = None if face is None else face_after(face, box, fit.placement)
    left, top, right, bottom = fit.kept
    made = replace(
        about,
        made_size=image.size,
        kept=(left + box[0], top + box[1], right + box[0], bottom + box[1]),
        lost=fit.lost,
        done=tuple(_done(decoded, header, inner, fit, settings)),
        face=None if moved is None else (moved.centre_x, moved.centre_y, moved.width, moved.height),
        looks=np.packbits(difference_hash(shown.convert("L"))).tobytes().hex(),
        content=content_hash(picture),
        mask_content=content_hash(mask_file) if mask_file else "",
    )
    return Product(made, picture, mask_file)


def encoded(image: Image.Image, kind: str) -> bytes:
    """The picture as a file, without any metadata."""
    file = io.BytesIO()
    if kind == "jpg":
        image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling="4:4:4")
    elif kind == "webp":
        image.save(file, "WEBP", lossless=True, quality=20, method=2, exact=True)
    else:
        image.save(file, "PNG", compress_level=PNG_EFFORT)
    return file.getvalue()


def _treated(
    decoded: Decoded, flat: Image.Image, box: Box, placement: Placement, settings: Settings
) -> tuple[Image.Image, Image.Image | None]:
    """The picture at its new size, and its mask where masks are asked for."""
    whole = (0, 0, *flat.size)
    image, opacity = flat, decoded.alpha
    if settings.opacity == "keep" and opacity is not None:
        image = decoded.rgb.copy()
        image.putalpha(opacity)
    if box != whole:
        image, opacity = image.crop(box), None if opacity is None else opacity.crop(box)
    image = placed(image, placement, settings.resize_interpolation)
    if settings.opacity != "mask":
        return image, None
    return image, Image.new("L", image.size, 255) if opacity is None else placed(opacity, placement, "area")


def _done(decoded: Decoded, header: Header, inner: Size, fit: Fitted, settings: Settings) -> list[str]:
    """What was done to it, in a word each."""
    placement = fit.placement
    grown = placement.resized[0] > inner[0] or placement.resized[1] > inner[1]
    said = {
        "turned upright": header.orientation != 1,
        "first frame": header.animated,
        "CMYK": header.mode == "CMYK",
        "16 bits": header.mode.startswith("I"),
        "colour profile": header.has_profile and not header.profile_broken,
        "broken colour profile": header.profile_broken,
        "transparent": decoded.alpha is not None,
        "borders trimmed": inner != decoded.rgb.size,
        "made smaller": placement.resized != inner and not grown,
        "enlarged": grown,
        "smaller than trained": fit.smaller_than_trained and not grown,
        "cropped": placement.target != placement.resized,
        "another format": header.format != {"png": "PNG", "webp": "WEBP", "jpg": "JPEG"}[settings.format],
    }
    return [word for word, is_so in said.items() if is_so]
