"""What the checks of a configuration look at, and what they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from library.config.dataset import Dataset, Subset
from library.config.schema import Config
from library.config.schema.data import BucketConfig, CaptionConfig, ImageConfig


@dataclass(frozen=True)
class Situation:
    """What a check looks at."""

    config: Config
    datasets: Sequence[Dataset]
    """The data as far as they could be found."""

    @property
    def subsets(self) -> list[Subset]:
        return [subset for dataset in self.datasets for subset in dataset.subsets]

    @property
    def buckets(self) -> list[BucketConfig]:
        """Of every dataset; the configuration's own where no dataset is known."""
        return [dataset.buckets for dataset in self.datasets] or [self.config.buckets]

    @property
    def captions(self) -> list[CaptionConfig]:
        """Of every subset; the configuration's own where no subset is known."""
        return [subset.captions for subset in self.subsets] or [self.config.captions]

    @property
    def images(self) -> list[ImageConfig]:
        """Of every subset; the configuration's own where no subset is known."""
        return [subset.images for subset in self.subsets] or [self.config.images]


@dataclass(frozen=True)
class Conflict:
    """Options that do not go together, or name what is not there."""

    keys: tuple[str, ...]
    """The options concerned; the user is shown where each was set."""
    message: str
    fatal: bool = True
    """The run cannot start; else it goes on with a warning."""
