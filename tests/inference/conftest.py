from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from library.config.schema.model import ModelConfig
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    """`folder("sd15")`: a tiny random model in the diffusers layout, made once."""
    root = tmp_path_factory.mktemp("models")

    def path(family: str) -> Path:
        out = root / family
        if not out.exists():
            write_folder(recipe(family, tiny=True), out)
        return out

    return path


@pytest.fixture
def load(folder) -> Callable[..., DiffusionModel]:
    """`load("sd15", clip_skip=2)`: the model on the CPU in fp32."""

    def loaded(family: str, **settings) -> DiffusionModel:
        config = ModelConfig(pretrained_model_name_or_path=str(folder(family)), **settings)
        return load_model(config, torch.float32, torch.device("cpu"))

    return loaded
