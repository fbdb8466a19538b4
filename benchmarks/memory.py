"""The peak memory that a run tells beforehand, against what it then takes.

    python -m benchmarks.memory --work /tmp/full_size

Trains full-size SD 1.5 with random weights for two steps, once for each case, with the real entry point. Printed: the estimate,
the highest resident memory of the process (on a GPU this benchmark has nothing to compare with: use a CPU), and the ratio.
Models and pictures are made once in `--work`, about 4 GB in fp32 and 2 GB in bf16.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks import ROOT, sides
from benchmarks.full_size import draw_pictures, make_model

CASES: Mapping[str, Mapping[str, str]] = {
    "256 bf16": {},
    "512 bf16": {"resolution": "512"},
    "256 fp32": {"mixed_precision": "no"},
    "256 bf16, text encoder trained": {"network_train_unet_only": "false", "cache_text_encoder_outputs": "false"},
    "256 bf16, batch 2": {"train_batch_size": "2"},
    "512 bf16, gradient checkpointing": {"resolution": "512", "gradient_checkpointing": "true"},
}
TOLD = re.compile(r"estimated peak memory: ([\d.]+) GiB.*")


def main() -> None:
    """The cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where models and pictures are kept")
    parser.add_argument("--case", choices=sorted(CASES), help="only this one")
    parser.add_argument("--steps", type=int, default=2)
    arguments = parser.parse_args()
    print(f"{'':<34}{'estimated':>10}{'measured':>10}{'ratio':>7}")
    for name in [arguments.case] if arguments.case else CASES:
        told, measured = train(arguments.work.absolute(), dict(CASES[name]), arguments.steps)
        estimated = float(told[1])
        print(f"{name:<34}{estimated:>10.2f}{measured:>10.2f}{estimated / measured:>7.2f}  {told[0]}", flush=True)


def train(work: Path, options: dict[str, str], steps: int) -> tuple[re.Match[str], float]:
    """One run; what it told, and its highest resident memory in GiB."""
    workload = workload_of(work, options)
    command = [sys.executable, str(ROOT / "train_network.py"), *sides.command_line(workload)]
    command += ["--max_train_steps", str(steps), "--cache_latents_to_disk", "false"]
    command += [word for key, value in options.items() for word in (f"--{key}", value)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    told = TOLD.search(output)
    if status or told is None:
        raise SystemExit(f"the run failed:\n{output[-3000:]}")
    return told, usage.ru_maxrss / 2**20


def workload_of(work: Path, options: Mapping[str, str]) -> sides.Workload:
    """A LoRA of rank 32 with cached latents and captions, at 256x256 in bf16; `options` come on top."""
    precision = options.get("mixed_precision", "bf16")
    model = make_model(work, "sd15", "fp32" if precision == "no" else "bf16")
    pictures = work / "pictures-256"
    if not pictures.exists():
        draw_pictures(pictures, 256)
    return sides.Workload(model=model, pictures=pictures, output=work / "output", resolution=256, precision=precision)


if __name__ == "__main__":
    main()
