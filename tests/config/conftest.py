from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from library.config.load import LoadedConfig, load_config


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a base model and one picture."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    Path("model.safetensors").write_bytes(b"")
    Path("pictures").mkdir()
    Path("pictures/a.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def load(folder: Path) -> Callable[..., LoadedConfig]:
    """Load a configuration whose base model and data are named, so that the demo stays out of it."""

    def run(text: str, *argv: str, name: str = "my.toml") -> LoadedConfig:
        Path(name).write_text(text, encoding="utf-8")
        model = "--pretrained_model_name_or_path=model.safetensors"
        return load_config(["--config", name, model, "--train_data_dir", "pictures", *argv])

    return run
