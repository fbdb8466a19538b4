"""Which part of a picture is kept, and at which size: by the trainer's own sizes and arithmetic. Sizes are (width, height)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from library.data.pictures.buckets import Size, bucket_sizes, training_size
from library.data.pictures.placement import Face, Placement, centred, covering
from library.data.preparing.settings import Focus, Settings

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True)
class Fitted:
    """Where a picture ends up."""

    placement: Placement
    smaller_than_trained: bool
    """The trainer will enlarge what is left of it, or it was enlarged for it."""

    @property
    def kept(self) -> Box:
        """The part of the original that is kept, in the original's pixels."""
        placed = self.placement
        scale = [before / after for before, after in zip(placed.original, placed.resized)]
        left, top, right, bottom = placed.box
        return round(left * scale[0]), round(top * scale[1]), round(right * scale[0]), round(bottom * scale[1])

    @property
    def lost(self) -> float:
        """Share of the original's area that is cut off."""
        width, height = self.placement.resized
        return 1 - self.placement.target[0] * self.placement.target[1] / (width * height)


def fitted(original: Size, settings: Settings, face: Face | None = None) -> Fitted:
    """Size and crop of an upright picture.

    Args:
        original: its size, trimmed.
        face: for `focus = "face"`, in pixels of the same picture; None: the centre.
    """
    if settings.fit == "none":
        return Fitted(_whole(original, original), False)
    target = training_size(original, settings.buckets, bucket_sizes(settings.buckets))
    resized = covering(original, target)
    grows = any(before < after for before, after in zip(original, resized))
    if grows and not settings.upscale:
        # Its own pixels, in the shape that the trainer will enlarge.
        resized, target = original, original if settings.fit == "area" else largest_within(original, target)
    if settings.fit == "area":
        return Fitted(_whole(original, resized), grows)
    placement = Placement(original, resized, *centred(resized, target).box[:2], target)
    return Fitted(_focused(placement, settings.focus, face), grows)


def largest_within(original: Size, shape: Size) -> Size:
    """The largest size of the shape's aspect ratio that the original holds."""
    (width, height), (shape_width, shape_height) = original, shape
    if width * shape_height >= height * shape_width:
        return max(1, min(width, round(height * shape_width / shape_height))), height
    return width, max(1, min(height, round(width * shape_height / shape_width)))


def face_after(face: Face, trimmed: Box, placement: Placement) -> Face | None:
    """The face in pixels of the prepared picture; None where its centre was cut off.

    Args:
        face: in pixels of the upright original.
        trimmed: what is left of the original within its borders.
    """
    scale = [after / before for before, after in zip(placement.original, placement.resized)]
    x = round((face.centre_x - trimmed[0]) * scale[0]) - placement.left
    y = round((face.centre_y - trimmed[1]) * scale[1]) - placement.top
    if not (0 <= x < placement.target[0] and 0 <= y < placement.target[1]):
        return None
    return Face(x, y, max(1, round(face.width * scale[0])), max(1, round(face.height * scale[1])))


def _whole(original: Size, resized: Size) -> Placement:
    return Placement(original, resized, 0, 0, resized)


def _focused(placement: Placement, focus: Focus, face: Face | None) -> Placement:
    """The same size, cut elsewhere."""
    spare_x, spare_y = (after - target for after, target in zip(placement.resized, placement.target))
    if focus == "top":
        return replace(placement, top=0)
    if focus == "bottom":
        return replace(placement, top=spare_y)
    if focus == "face" and face is not None:
        scale = [after / before for before, after in zip(placement.original, placement.resized)]
        left = round(face.centre_x * scale[0]) - placement.target[0] // 2
        top = round(face.centre_y * scale[1]) - placement.target[1] // 2
        return replace(placement, left=max(0, min(left, spare_x)), top=max(0, min(top, spare_y)))
    return placement
