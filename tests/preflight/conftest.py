"""Runs as `dojo check` sees them, on small pictures made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.config.dataset import Dataset, resolve_datasets
from library.config.load import LoadedConfig, load_config
from library.data.checks.preflight import preflight
from library.data.index.sources import Survey
from library.preflight.gather import gather
from library.preflight.report import Report


@dataclass(frozen=True)
class Checked:
    """What each part of a check gave."""

    loaded: LoadedConfig
    datasets: list[Dataset]
    survey: Survey
    report: Report


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, (width, height), seed, caption)`: noise, with a caption beside it."""

    def make(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0, caption: str | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_HWC = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise_HWC).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return make


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., Checked]:
    """`checked("--train_batch_size", 2)`: the check of the pictures in `tmp_path / "pictures"`."""
    model = tmp_path / "model"
    model.mkdir()

    def check(*options: object) -> Checked:
        fixed = ("--pretrained_model_name_or_path", model, "--resolution", 64)
        if "--train_data_dir" not in options:
            fixed += ("--train_data_dir", tmp_path / "pictures")
        loaded = load_config([str(word) for word in (*fixed, *options)])
        datasets, notices = resolve_datasets(loaded.config)
        survey = preflight(datasets, seed=loaded.config.training.seed or 0, strict=loaded.config.data.strict)
        return Checked(loaded, datasets, survey, gather(loaded, datasets, notices, survey))

    return check
