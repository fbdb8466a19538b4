"""Small datasets made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from library.config.dataset import Dataset, Subset
from library.config.schema.data import BucketConfig, CaptionConfig, ImageConfig


def make_subset(image_dir: Path | None, **settings: Any) -> Subset:
    """A subset; settings of captions and images may be given flat."""
    captions = {name: settings.pop(name) for name in list(settings) if name in CaptionConfig.__dataclass_fields__}
    images = {name: settings.pop(name) for name in list(settings) if name in ImageConfig.__dataclass_fields__}
    values = {
        "where": "data.toml: datasets[0].subsets[0]",
        "image_dir": image_dir,
        "metadata_file": None,
        "num_repeats": 1,
        "is_reg": False,
        "class_tokens": None,
        "captions": CaptionConfig(**captions),
        "images": ImageConfig(**images),
        "trigger_word": "",
        "class_word": "",
        "custom_attributes": {},
        "cache_info": False,
    }
    return Subset(**{**values, **settings})


def make_dataset(*subsets: Subset, **buckets: Any) -> Dataset:
    """A dataset for tiny pictures."""
    tiny = {"resolution": [64, 64], "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    return Dataset(BucketConfig(**{**tiny, **buckets}), subsets)


def make_picture(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0, caption: str | None = None) -> Path:
    """A picture of noise, with a caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_HWC = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise_HWC).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


@pytest.fixture
def subset() -> Callable[..., Subset]:
    return make_subset


@pytest.fixture
def dataset() -> Callable[..., Dataset]:
    return make_dataset


@pytest.fixture
def picture() -> Callable[..., Path]:
    return make_picture


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of `count` different pictures, every third wide."""

    def make(count: int, name: str = "pictures", caption: str | None = "alex, red hair, boxing") -> Path:
        for number in range(count):
            size = (96, 64) if number % 3 == 2 else (64, 64)
            make_picture(tmp_path / name / f"{number:02d}.png", size, seed=hash_of(name) + number, caption=caption)
        return tmp_path / name

    return make


def hash_of(name: str) -> int:
    """A small number for a name, the same in every process."""
    return sum(name.encode()) * 1000


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each picture of which pixels were asked for, how many it claims to have."""
    found: list[int] = []
    load = ImageFile.ImageFile.load

    def counted(self: ImageFile.ImageFile) -> Any:
        found.append(self.width * self.height)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    return found
