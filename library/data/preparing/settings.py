"""What is asked for: how pictures are made ready for training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from PIL import ImageColor

from library.config.schema.data import BucketConfig
from library.core.errors import raise_all
from library.data.pictures.buckets import bucket_problems

Fit = Literal["area", "bucket", "square", "none"]
Focus = Literal["centre", "top", "bottom", "face"]
Opacity = Literal["fill", "keep", "mask"]
Format = Literal["png", "webp", "jpg"]

STRIDE = 8
"""Pixels a latent of every model that is trained here."""


@dataclass(frozen=True)
class Settings:
    """Everything that a prepared picture's pixels depend on, besides the original."""

    buckets: BucketConfig = field(default_factory=lambda: BucketConfig(enable_bucket=True))
    """The sizes of the run that the pictures are for."""
    fit: Fit = "area"
    focus: Focus = "centre"
    """What stays where something is cut off."""
    upscale: bool = False
    """Enlarge pictures that are smaller than they are trained at."""
    min_side: int = 0
    """Pictures with a shorter side, in pixels, are left out."""
    trim_borders: bool = False
    opacity: Opacity = "fill"
    """What becomes of transparency: filled with a colour, kept, or filled and written as a mask beside."""
    background_color: str = "white"
    resize_interpolation: str | None = None
    """A filter's name as in `images.FILTERS`; None: as the trainer chooses."""
    format: Format = "png"

    def check(self) -> None:
        """See that they can be fulfilled.

        Raises:
            UserErrors: settings that contradict one another, or that the trainer would refuse; all at once.
        """
        problems = [f"--{problem}" for problem in bucket_problems(self.buckets, STRIDE)] if self.fit != "none" else []
        width, height = self.buckets.resolution
        if self.fit == "square" and width != height:
            problems.append(
                f"--fit square: --resolution {width},{height} is no square; give one number, or --fit bucket."
            )
        if self.opacity == "keep" and self.format == "jpg":
            problems.append(
                "--keep_alpha: a JPEG has no transparency; choose --format png or webp, or --alpha_to_mask."
            )
        try:
            ImageColor.getrgb(self.background_color)
        except ValueError:
            problems.append(
                f"--background_color '{self.background_color}' is not a colour: give a name such as white, or '#rrggbb'."
            )
        raise_all(problems)

    def text(self) -> str:
        """The same for the same pixels."""
        return json.dumps(asdict(self), sort_keys=True)
