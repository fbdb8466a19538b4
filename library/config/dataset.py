"""The training data as the configuration describes it: dataset tables and picture folders, resolved level by level.

Precedence: subset > dataset > general > the main configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.schema.data import BucketConfig, CaptionConfig, ImageConfig

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""Endings of picture files, in lower case."""


@dataclass(frozen=True)
class Subset:
    """Pictures of one folder or metadata file that are treated alike."""

    where: str
    """What declares it, for messages: `my_data.toml: datasets[0].subsets[1]` or `train_data_dir/10_mychar man`."""
    image_dir: Path | None
    """Folder whose own pictures are used (not those of its subfolders); with metadata_file, the root of its paths."""
    metadata_file: Path | None
    """A .json or .jsonl file that maps pictures to captions."""
    num_repeats: int
    is_reg: bool
    """Regularisation pictures: weighed by prior_loss_weight, their number matched to that of the training pictures."""
    class_tokens: str | None
    """Caption of pictures that have no caption file."""
    captions: CaptionConfig
    images: ImageConfig
    trigger_word: str
    class_word: str
    custom_attributes: dict[str, Any]
    """Free values of the user, handed through to metadata."""
    cache_info: bool


@dataclass(frozen=True)
class Dataset:
    """Subsets that share sizes and batches."""

    buckets: BucketConfig
    subsets: tuple[Subset, ...]
