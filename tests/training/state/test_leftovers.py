"""What killed runs have left goes, and what somebody else may be writing stays."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from library.config.schema import DataConfig, SavingConfig
from library.training.state.leftovers import clear_leftovers_of

OURS = [
    "hero.safetensors", "hero-000010.safetensors", "hero-step00000500.safetensors", "hero-state", "hero-000010-state",
    "hero-step00000500-state", "hero.json", "hero.config.toml", "hero.preview.png", "hero.before_after.png",
]  # fmt: skip
PICTURES = ["hero_e000010_00_20260101120000_7.png", "hero_000500_11_20260101120000_123.png"]
OTHERS = ["hero-v2.safetensors", "hero.v2.safetensors", "hero2-state", "my-hero.safetensors", "hero-step5.safetensors"]


def half_written(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.0123abcd.tmp"
    if name.endswith("-state"):
        path.mkdir()
        (path / "network.safetensors").touch()
    else:
        path.touch()
    return path


def started(root: Path, main: bool = True) -> int:
    """Times that the process has waited for the others."""
    waited: list[None] = []
    saving = SavingConfig(output_dir=str(root), output_name="hero")
    config = SimpleNamespace(saving=saving, data=DataConfig(cache_dir=str(root / "cache")))
    process = SimpleNamespace(is_main_process=main, wait_for_everyone=lambda: waited.append(None))
    clear_leftovers_of(config, process)  # type: ignore[arg-type]
    return len(waited)


def test_only_what_this_run_would_write_goes(tmp_path: Path) -> None:
    ours = [half_written(tmp_path, name) for name in OURS]
    ours += [half_written(tmp_path / "sample", name) for name in PICTURES]
    others = [half_written(tmp_path, name) for name in OTHERS]
    others += [half_written(tmp_path / "sample", "hero2_000500_11_20260101120000_123.png")]
    assert started(tmp_path) == 1
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("kind", ["latents", "texts"])
def test_caches_may_be_filled_by_others_now(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "cache" / kind / "ab"
    fresh, forgotten = half_written(folder, "abc.safetensors"), half_written(folder, "abd.safetensors")
    os.utime(forgotten, (0, 0))
    started(tmp_path)
    assert fresh.exists() and not forgotten.exists()


def test_one_process_clears_for_all(tmp_path: Path) -> None:
    left = half_written(tmp_path, "hero-state")
    assert started(tmp_path, main=False) == 1
    assert left.exists()


def test_a_former_state_gets_its_name_back(tmp_path: Path) -> None:
    former = half_written(tmp_path, "hero-state").replace(tmp_path / ".hero-state.0123abcd.former")
    started(tmp_path)
    assert not former.exists() and (tmp_path / "hero-state" / "network.safetensors").is_file()
