"""Memory that the system really refuses in the midst of a step: the run ends with advice, or goes on in halves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from library.core.errors import Exit

ROOT = Path(__file__).resolve().parents[2]
ROOM = 2
"""MiB that the process may have beside what half a batch takes; the whole one takes about 9 more."""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc are Linux's")


def starved(options: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, str(Path(__file__).parent / "starved_run.py"), str(ROOM), *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)


def losses(folder: Path) -> dict[int, float]:
    """Of every step, from the newest TensorBoard log."""
    log = max((folder / "logs").glob("*/network_train"), key=lambda path: path.parent.name)
    return {event.step: event.value for event in EventAccumulator(str(log)).Reload().Scalars("loss/current")}


def test_a_starved_run_stops_with_advice_or_goes_on_in_halves(
    train: Callable[..., Path], tmp_path: Path, models: Callable[[str], Path]
) -> None:
    pictures = tmp_path / "pictures" / "1_hero man"
    pictures.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (64, 64), (30 * number, 250 - 30 * number, 90)).save(pictures / f"{number}.png")
    options = {
        "train_data_dir": pictures.parent,
        "resolution": 64,
        "train_batch_size": 8,
        "save_state": True,
        "cache_latents": True,
    }
    whole = train("whole", max_train_steps=3, save_every_n_steps=1, **options)
    saved = whole / "lora-step00000001-state"
    state = {path.name: path.read_bytes() for path in sorted(saved.iterdir())}
    further = ["--config", str(whole / "lora.config.toml"), "--resume", str(saved)]

    stopped = starved([*further, "--output_dir", str(tmp_path / "stopped")])
    assert stopped.returncode == Exit.OUT_OF_MEMORY == 4, stopped.stderr
    for words in (
        "out of memory in step 2, in a pass over 8 pictures of 64x64",
        "MiB more were asked for",
        "train_batch_size = 4",
        "halve_batch_on_oom = true",
        "--resume latest",
    ):
        assert words in stopped.stderr
    assert "Traceback" not in stopped.stderr and stopped.stderr.count("error: ") == 1
    assert state == {path.name: path.read_bytes() for path in sorted(saved.iterdir())}

    halved = tmp_path / "halved"
    done = starved([*further, "--output_dir", str(halved), "--halve_batch_on_oom", "true"])
    assert done.returncode == Exit.COMPLETE, done.stderr
    assert "From here on such a pass is done in two halves" in done.stderr
    expected = losses(whole)
    assert losses(halved) == pytest.approx({step: expected[step] for step in (2, 3)}, rel=1e-4)
    weights = load_file(whole / "lora.safetensors")
    for name, value in load_file(halved / "lora.safetensors").items():
        torch.testing.assert_close(value, weights[name], rtol=1e-3, atol=1e-3)
