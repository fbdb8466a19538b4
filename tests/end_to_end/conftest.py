"""Runs of the real entry point on tiny models, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import train_network
from library.models.published import recipe
from library.models.random_weights import write_folder, write_single_file

ROOT = Path(__file__).resolve().parents[2]

Train = Callable[..., Path]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven captioned pictures of three shapes, one of them repeated twice an epoch."""
    root = tmp_path_factory.mktemp("data")
    sizes = [(64, 64)] * 4 + [(96, 48)] * 2 + [(48, 96)]
    for index, size in enumerate(sizes):
        folder = root / ("2_hero man" if index == 0 else "1_hero man")
        folder.mkdir(exist_ok=True)
        picture = Image.new("RGB", size, (40 * index, 255 - 30 * index, 90))
        ImageDraw.Draw(picture).ellipse((8, 8, size[0] - 8, size[1] - 8), fill=(255 - 20 * index, 10, 30 * index))
        picture.save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"hero, man, shape {index}, red, blue", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models with random weights, made once: "sd15", "sd2", "sd2_v", "sdxl"."""
    root = tmp_path_factory.mktemp("models")

    def model(family: str, layout: str = "folder") -> Path:
        path = root / (family if layout == "folder" else f"{family}.safetensors")
        if not path.exists():
            (write_folder if layout == "folder" else write_single_file)(recipe(family, tiny=True), path)
        return path

    return model


@pytest.fixture
def train(pictures: Path, models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train with these options on top of a small common set; returns the output folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(name: str = "run", **options: object) -> Path:
        chosen = {
            "pretrained_model_name_or_path": models("sd15"),
            "train_data_dir": pictures,
            "resolution": 64,
            "enable_bucket": True,
            "min_bucket_reso": 32,
            "bucket_reso_steps": 16,
            "train_batch_size": 2,
            "network_dim": 4,
            "network_alpha": 2,
            "learning_rate": 1e-2,
            "max_train_steps": 6,
            "seed": 7,
            "progress": False,
            "output_dir": tmp_path / name,
            "output_name": "lora",
            "cache_dir": tmp_path / "cache",
            **options,
        }
        argv = [word for key, value in chosen.items() if value is not None for word in (f"--{key}", *words(value))]
        monkeypatch.setattr(sys, "argv", ["train_network.py", *argv])
        threads = torch.get_num_threads()
        assert train_network.main() == 0
        torch.set_num_threads(threads)
        return tmp_path / name

    return run


def words(value: object) -> list[str]:
    """An option's value as words of a command line."""
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, list):
        return [str(item) for item in value]
    return [Path(value).as_posix() if isinstance(value, Path) else str(value)]
