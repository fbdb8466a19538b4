"""Tiny models and pictures, and runs that are about to begin with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from library.config.load import load_config
from library.models.published import recipe
from library.models.random_weights import write_folder
from library.training.run import Run, start_run


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `sd15` and `sdxl`, and pictures of 64x64 and 96x48."""
    root = tmp_path_factory.mktemp("estimate")
    for family in ("sd15", "sdxl"):
        write_folder(recipe(family, tiny=True), root / family)
    (root / "pictures").mkdir()
    for number, size in enumerate([(64, 64), (64, 64), (96, 64)]):
        Image.new("RGB", size, (60 * number, 90, 120)).save(root / "pictures" / f"{number}.png")
        (root / "pictures" / f"{number}.txt").write_text("hero, man", encoding="utf-8")
    return root


@pytest.fixture
def started(folders: Path, tmp_path: Path) -> Callable[..., Run]:
    """`started(family="sd15", **options)`: a run at its start."""

    def start(family: str = "sd15", **options: object) -> Run:
        given = {
            "pretrained_model_name_or_path": folders / family,
            "train_data_dir": folders / "pictures",
            "resolution": 64,
            "train_batch_size": 2,
            "max_train_steps": 2,
            "output_dir": tmp_path / "out",
            "cache_dir": tmp_path / "cache",
            "seed": 1,
            **options,
        }
        threads = torch.get_num_threads()
        loaded = load_config([word for key, value in given.items() for word in (f"--{key}", str(value))])
        run = start_run(loaded, loaded.config, Accelerator())
        torch.set_num_threads(threads)
        return run

    return start
