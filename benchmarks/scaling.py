"""How much faster several processes train than one, at the same batch in each.

    python -m benchmarks.scaling --processes 2

Runs `train_network.py` on the CPU with the demo model, each process on cores of its own: one process alone; as many separate
runs side by side, which share the machine but tell one another nothing; and one run of all of them, which sum their gradients
after every step (gloo). Printed for each: samples a second over all processes. The efficiency is the third as a share of the
first times the processes; the third as a share of the second is what the exchange alone leaves.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ROOT


def main() -> None:
    """The three kinds of run, in turns, so that a machine that slows down slows all."""
    arguments = parse()
    n, cores = arguments.processes, sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // n)
    own = [set(cores[index * each : (index + 1) * each]) for index in range(n)]
    found: dict[str, list[float]] = {"alone": [], "side by side": [], "together": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.turns):
            out = Path(folder) / str(turn)
            found["alone"] += finish([start(arguments, out / "alone", own[0])], arguments)
            beside = [start(arguments, out / f"beside{index}", own[index]) for index in range(n)]
            found["side by side"].append(sum(finish(beside, arguments)))
            together = finish([start(arguments, out / "together", set.union(*own), n)], arguments)
            found["together"].append(n * together[0])
    speeds = {name: statistics.median(values) for name, values in found.items()}
    for name, speed in speeds.items():
        print(f"{name:<13}{speed:8.2f} samples/s   {', '.join(f'{value:.2f}' for value in found[name])}")
    print(f"efficiency at {n} processes: {speeds['together'] / (n * speeds['alone']):.0%}")
    print(f"left by the exchange:         {speeds['together'] / speeds['side by side']:.0%}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="samples of a process in each step (default: 4)")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run; the first quarter is not counted")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("options", nargs=argparse.REMAINDER, help="after --: further options of train_network.py")
    return parser.parse_args()


def start(
    arguments: argparse.Namespace, out: Path, cores: set[int], processes: int = 1
) -> tuple[subprocess.Popen, Path]:
    """A run on these cores."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = [
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    if processes > 1:
        launch += ["--multi_gpu", "--main_process_port", str(port)]
    options = {
        "output_dir": out, "max_train_steps": arguments.steps, "train_batch_size": arguments.batch, "seed": 0, "progress": "false",
        "sample_prompts": "", "sample_every_n_steps": 0, "save_every_n_steps": 0, "validation_split": 0, "cache_latents": "true",
        "prior_prediction_rate": 0, "max_data_loader_n_workers": 0, "log_every_n_steps": 1,
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch, str(ROOT / "train_network.py"), *words]
    command += [word for word in arguments.options if word != "--"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return process, out


def finish(runs: list[tuple[subprocess.Popen, Path]], arguments: argparse.Namespace) -> list[float]:
    """Samples a second of each run's processes, from the median step after the first quarter."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    speeds = []
    for process, out in runs:
        _, said = process.communicate()
        assert process.returncode == 0, said[-3000:]
        (log,) = (out / "logs").glob("*/network_train")
        curve = [point.value for point in EventAccumulator(str(log)).Reload().Scalars("speed/steps_per_second")]
        speeds.append(arguments.batch * statistics.median(curve[len(curve) // 4 :]))
    return speeds


if __name__ == "__main__":
    main()
