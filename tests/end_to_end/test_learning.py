"""The README's first command teaches the demo model a character, and leaves everything else alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import train_network
from library.cli import measure

ROOT = Path(__file__).resolve().parents[2]


def test_the_quick_start_learns_its_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sixteen held-out prompts and seeds: nearer with the LoRA in at least 90%; at most a third of the change untriggered."""
    argv = ["--config", str(ROOT / "presets" / "character.toml"), "--output_dir", str(tmp_path), "--progress", "false"]
    argv += ["--sample_at_first", "false", "--sample_every_n_steps", "0", "--cache_dir", str(tmp_path / "cache")]
    monkeypatch.setattr(sys, "argv", ["train_network.py", *argv])
    train_network.main()
    assert "presets/demo.toml is laid over" in capsys.readouterr().out
    lora, held_out = tmp_path / "alexander.safetensors", ROOT / "demo" / "held_out" / "alexander"
    words = ["--trigger_word", "alexander", "--class_word", "fighter", "--steps", "15"]
    learning = measure.measured(measure.parse(["--lora", str(lora), "--held_out", str(held_out), *words]))
    print(learning.report())
    assert len(learning.distances_with) >= 16
    assert learning.nearer >= 0.9
    assert learning.leak <= 1 / 3
