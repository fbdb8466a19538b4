"""The seconds of a step as `dojo check` estimates them, against those of real runs.

    python -m benchmarks.estimates --work /tmp/full_size

The demo, and full-size SD 1.5 with random weights, a LoRA of rank 32 on the UNet, by the real entry points. Models and pictures are made
once in `--work`. The machine should do nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT, sides
from benchmarks.memory import workload_of

CASES: dict[str, dict[str, str]] = {
    "demo": {},
    "256 bf16": {},
    "512 bf16": {"resolution": "512"},
    "256 fp32": {"mixed_precision": "no"},
    "256 bf16, batch 2": {"train_batch_size": "2"},
    "256 bf16, text encoder trained": {"network_train_unet_only": "false", "cache_text_encoder_outputs": "false"},
    "512 bf16, gradient checkpointing": {"resolution": "512", "gradient_checkpointing": "true"},
}


def main() -> None:
    """The cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where models and pictures are kept")
    parser.add_argument("--case", choices=sorted(CASES), help="only this one")
    parser.add_argument(
        "--steps", type=int, default=6, help="real steps; the first two do not count (demo: ten times as many)"
    )
    arguments = parser.parse_args()
    print(f"{'':<34}{'estimated':>10}{'measured':>10}{'ratio':>7}")
    for name in [arguments.case] if arguments.case else CASES:
        with tempfile.TemporaryDirectory() as folder:
            words = command_line(arguments.work.absolute(), name, Path(folder))
            estimated = estimate(words, Path(folder))
            measured = train(words, arguments.steps * (10 if name == "demo" else 1), Path(folder))
        print(f"{name:<34}{estimated:>9.3f}s{measured:>9.3f}s{estimated / measured:>7.2f}", flush=True)


def command_line(work: Path, name: str, folder: Path) -> list[str]:
    """The options of a case; notes of other runs are not found."""
    own = ["--output_dir", str(folder / "out"), "--cache_dir", str(folder / "cache"), "--seed", "0"]
    if name == "demo":
        return own
    words = [*sides.command_line(workload_of(work, CASES[name])), "--cache_latents_to_disk", "false"]
    return [*words, *(word for key, value in CASES[name].items() for word in (f"--{key}", value)), *own]


def estimate(words: list[str], folder: Path) -> float:
    """Seconds of a step."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "library.cli.main", "check", *words, "--json", str(report)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return float(json.loads(report.read_text(encoding="utf-8"))["estimates"]["seconds_per_step"])


def train(words: list[str], steps: int, folder: Path) -> float:
    """Median seconds of a step, by the run's own log."""
    options = ["--max_train_steps", str(steps), "--log_every_n_steps", "1", "--log_with", "tensorboard"]
    subprocess.run(
        [sys.executable, str(ROOT / "train_network.py"), *words, *options], cwd=ROOT, check=True, capture_output=True
    )
    return statistics.median(1 / speed for speed in logged(folder / "out", "speed/steps_per_second")[2:])


def logged(folder: Path, tag: str) -> list[float]:
    """The values of a curve in TensorBoard's files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    [file] = folder.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    return [float(event.value) for event in events.Scalars(tag)]


if __name__ == "__main__":
    main()
