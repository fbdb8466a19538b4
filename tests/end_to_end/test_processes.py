"""Two processes, started by accelerate, do what one does with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parents[2]


def launch(processes: int, options: list[str]) -> str:
    """`accelerate launch` on the CPU; its `--cpu` would start one process whatever is asked, so the device is set apart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    many = ["--multi_gpu", "--main_process_port", str(port)] if processes > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", *many, "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command += [str(ROOT / "train_network.py"), *options]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def losses(folder: Path, tag: str) -> list[float]:
    """A curve of the run's TensorBoard log."""
    (log,) = (folder / "logs").glob("*/network_train")
    events = EventAccumulator(str(log)).Reload()
    return [event.value for event in events.Scalars(tag)]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one(
    accumulation: int, pictures: Path, models: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same global batch of four: samples, noise, losses, and in the end the same LoRA to rounding."""
    results = {}
    for processes in (1, 2):
        out = tmp_path / str(processes)
        batch = 4 // processes // accumulation
        options = {
            "pretrained_model_name_or_path": models("sd15"), "train_data_dir": pictures, "output_dir": out,
            "output_name": "lora", "resolution": 64, "enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 16,
            "train_batch_size": batch, "gradient_accumulation_steps": accumulation, "max_train_steps": 5, "seed": 3,
            "learning_rate": 1e-3, "network_dim": 4, "validation_split": 0.2, "validate_every_n_steps": 2,
            "cache_latents_to_disk": True, "cache_dir": tmp_path / f"cache{processes}", "save_state": True,
            "prior_prediction_rate": 0.5, "trigger_word": "hero", "class_word": "man", "progress": False,
        }  # fmt: skip
        said = launch(processes, [word for key, value in options.items() for word in (f"--{key}", str(value))])
        assert f"{processes} process" in said, "the launcher started another number of processes"
        results[processes] = out
    one, two = results[1], results[2]
    for tag in ("loss/current", "loss/validation/average", "norm/grad_norm"):
        assert losses(one, tag) == pytest.approx(losses(two, tag), rel=1e-4), tag
    first, second = load_file(one / "lora.safetensors"), load_file(two / "lora.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-2, atol=2e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023
