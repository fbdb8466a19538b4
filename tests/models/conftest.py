from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from library.config.schema.model import ModelConfig
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder, write_single_file

FAMILIES = ("sd15", "sd2_v", "sdxl")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str, str], Path]:
    """`tiny("sd15", "folder")` or `tiny("sdxl", "file")`: the same random model in either layout, made once."""
    root = tmp_path_factory.mktemp("models")

    def path(family: str, layout: str) -> Path:
        out = root / (family if layout == "folder" else f"{family}.safetensors")
        if not out.exists():
            (write_folder if layout == "folder" else write_single_file)(recipe(family, tiny=True), out)
        return out

    return path


@pytest.fixture
def load() -> Callable[..., DiffusionModel]:
    """`load(path, clip_skip=2)`: the model on the CPU in fp32."""

    def loaded(path: Path, dtype: torch.dtype = torch.float32, **settings) -> DiffusionModel:
        return load_model(ModelConfig(pretrained_model_name_or_path=str(path), **settings), dtype, torch.device("cpu"))

    return loaded
