"""Two processes, started by accelerate, do what one does with the same global batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from library.training.state.checkpoint import read_position
from tests.end_to_end.conftest import words

ROOT = Path(__file__).resolve().parents[2]


def launched(processes: int, options: Mapping[str, object]) -> subprocess.Popen[str]:
    """`accelerate launch` on the CPU; its `--cpu` would start one process whatever is asked, so the device is set apart."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    many = ["--multi_gpu", "--main_process_port", str(port)] if processes > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", *many, "--num_processes", str(processes)]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    command += [str(ROOT / "train_network.py")]
    command += [word for key, value in options.items() for word in (f"--{key}", *words(value))]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def launch(processes: int, options: Mapping[str, object], status: int = 0) -> tuple[str, str]:
    """Launch, and wait for the end; returns what was said, to stdout and stderr."""
    running = launched(processes, options)
    out, err = running.communicate(timeout=300)
    assert running.returncode == status, err[-3000:]
    return out, err


def losses(folder: Path, tag: str) -> list[float]:
    """A curve of the run's TensorBoard log."""
    (log,) = (folder / "logs").glob("*/network_train")
    events = EventAccumulator(str(log)).Reload()
    return [event.value for event in events.Scalars(tag)]


@pytest.fixture
def options(pictures: Path, models: Callable[[str], Path], tmp_path: Path) -> dict[str, object]:
    """What the runs have in common."""
    return {
        "pretrained_model_name_or_path": models("sd15"), "train_data_dir": pictures, "output_name": "lora", "resolution": 64,
        "enable_bucket": True, "min_bucket_reso": 32, "bucket_reso_steps": 16, "max_train_steps": 5, "seed": 3,
        "learning_rate": 1e-3, "network_dim": 4, "validation_split": 0.2, "validate_every_n_steps": 2,
        "cache_latents_to_disk": True, "save_state": True, "prior_prediction_rate": 0.5, "trigger_word": "hero",
        "class_word": "man", "progress": False,
    }  # fmt: skip


def assert_same_run(one: Path, other: Path, first_step: int = 0) -> None:
    """Losses from that step on and in the end the LoRA are the same to rounding."""
    for tag in ("loss/current", "norm/grad_norm"):
        assert losses(one, tag)[first_step:] == pytest.approx(losses(other, tag), rel=1e-4), tag
    first, second = load_file(one / "lora.safetensors"), load_file(other / "lora.safetensors")
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-2, atol=2e-5, msg=lambda text: f"{name}: {text}")  # noqa: B023


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one(accumulation: int, options: dict[str, object], tmp_path: Path) -> None:
    """The same global batch of four: samples, noise, losses, and in the end the same LoRA to rounding. Without accumulation two
    processes also continue what one has begun."""

    def trained(name: str, processes: int, **changed: object) -> tuple[Path, str]:
        batch = {"train_batch_size": 4 // processes // accumulation, "gradient_accumulation_steps": accumulation}
        places = {"output_dir": tmp_path / name, "cache_dir": tmp_path / f"cache{processes}"}
        said, _ = launch(processes, {**options, **batch, **places, **changed})
        assert f"{processes} process" in said, "the launcher started another number of processes"
        return tmp_path / name, said

    one, _ = trained("one", 1, save_every_n_steps=2)
    two, _ = trained("two", 2)
    assert_same_run(one, two)
    assert losses(one, "loss/validation/average") == pytest.approx(losses(two, "loss/validation/average"), rel=1e-4)
    if accumulation == 1:
        resumed, said = trained("resumed", 2, resume=one / "lora-step00000002-state")
        assert "at step 2" in said
        assert "changed" not in said
        assert_same_run(one, resumed, first_step=2)


def test_a_process_that_fails_ends_all_under_the_launcher(options: dict[str, object], tmp_path: Path) -> None:
    """Rank 1 raises in its third step, while rank 0 waits for its gradients."""
    doomed = {
        "network_module": "doomed_network",
        "network_args": ["rank=1"],
        "output_dir": tmp_path,
        "cache_dir": tmp_path / "cache",
    }
    started = time.monotonic()
    _, said = launch(2, {**options, **doomed}, status=1)
    assert "ValueError: this network was made to fail" in said
    assert time.monotonic() - started < 120
    assert not (tmp_path / "lora.safetensors").exists()


def test_processes_that_are_asked_to_stop_do_so_after_the_same_step_with_their_state_saved(
    options: dict[str, object], tmp_path: Path
) -> None:
    """The launcher passes the signal on to both."""
    places = {"output_dir": tmp_path, "cache_dir": tmp_path / "cache", "save_state": False, "max_train_steps": 100000}
    running = launched(2, {**options, **places})
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("step 2:"):
            break
    running.terminate()
    out, err = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "Stopped after step" in out, err[-3000:]
    (state,) = tmp_path.glob("*-state")
    assert 2 <= read_position(state).step < 100000
