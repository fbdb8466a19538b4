"""Time our training step against a plain one, in turns, and compare their memory.

    python -m benchmarks.step --family sd15 --resolution 256 --precision bf16 --work /tmp/full_size

Each side is a process of its own, so that neither's memory or allocator settings touch the other's; they take turns, a few
steps each, so that a machine which slows down slows both. Printed for each side: the median step, split into its parts, and
the peak memory of its process, loading included; and the ratio of each pair of turns. The model has random weights, is
stored in the run's type, and is made once in `--work`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks import sides
from benchmarks.full_size import draw_pictures, make_model


def main() -> None:
    """The two processes and their turns."""
    arguments = parse()
    if arguments.side:
        serve(arguments.side, workload_of(arguments))
        return
    workload_of(arguments, make=True)
    players = {name: start(name) for name in sides.SIDES}
    ready = {name: json.loads(read(player)) for name, player in players.items()}
    turns: dict[str, list[list[dict[str, float]]]] = {name: [] for name in players}
    for _ in range(arguments.turns):
        for name, player in players.items():
            found = ask(player, arguments.steps)
            turns[name].append(found["steps"])
            ready[name]["peak_GiB"] = found["peak_GiB"]
    for player in players.values():
        player.communicate("0\n")
    report(turns, ready)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15", choices=["sd15", "sd2", "sdxl"])
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=sorted(sides.DTYPES))
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, on both sides")
    parser.add_argument("--turns", type=int, default=6, help="pairs of turns (default: 6)")
    parser.add_argument(
        "--steps", type=int, default=4, help="steps of a turn that are measured, after one that is not (default: 4)"
    )
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where model and pictures are kept")
    parser.add_argument("--side", choices=sorted(sides.SIDES), help=argparse.SUPPRESS)
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="after --: further options of train_network.py, for ours"
    )
    return parser.parse_args()


def workload_of(arguments: argparse.Namespace, make: bool = False) -> sides.Workload:
    """The workload, its model made where it is missing, its pictures where `make` is asked for."""
    stored = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}[arguments.precision]
    model = make_model(arguments.work, arguments.family, stored)
    pictures = (arguments.work / f"pictures-{arguments.resolution}").absolute()
    if make:
        draw_pictures(pictures, arguments.resolution)
    return sides.Workload(
        model=model,
        pictures=pictures,
        output=arguments.work / "output",
        resolution=arguments.resolution,
        batch=arguments.batch,
        rank=arguments.rank,
        precision=arguments.precision,
        checkpointing=arguments.checkpointing,
        options=[word for word in arguments.options if word != "--"],
    )


def start(name: str) -> subprocess.Popen[str]:
    """The process of one side."""
    words = sys.argv[1:]
    options = words.index("--") if "--" in words else len(words)
    command = [sys.executable, "-m", "benchmarks.step", *words[:options], "--side", name, *words[options:]]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(name: str, workload: sides.Workload) -> None:
    """Build a side, then train as many steps as each line of the input says, until it says 0."""
    answers, sys.stdout = sys.stdout, sys.stderr
    began = time.perf_counter()
    side = sides.SIDES[name](workload)
    print(json.dumps({"built_s": time.perf_counter() - began}), file=answers, flush=True)
    while count := int(sys.stdin.readline() or 0):
        side.step()  # after the other's turn, caches are cold
        parts = [asdict(side.step()) for _ in range(count)]
        print(json.dumps({"steps": parts, "peak_GiB": sides.peak_memory() / 2**30}), file=answers, flush=True)


def ask(player: subprocess.Popen[str], steps: int) -> dict:
    assert player.stdin is not None
    player.stdin.write(f"{steps}\n")
    player.stdin.flush()
    return json.loads(read(player))


def read(player: subprocess.Popen[str]) -> str:
    assert player.stdout is not None
    return player.stdout.readline()


def report(turns: dict[str, list[list[dict[str, float]]]], ready: dict[str, dict[str, float]]) -> None:
    """A line a side, and the ratio."""
    print(f"{'':<11}{'step':>9}{'data':>9}{'forward':>9}{'backward':>10}{'optimizer':>11}{'peak GiB':>10}{'built':>8}")
    for name, found in turns.items():
        every = [step for turn in found for step in turn]
        parts = {key: statistics.median(step[key] for step in every) for key in every[0]}
        total = statistics.median(sum(step.values()) for step in every)
        print(
            f"{name:<11}{total:>8.3f}s{parts['data']:>8.3f}s{parts['forward']:>8.3f}s{parts['backward']:>9.3f}s"
            f"{parts['optimizer']:>10.3f}s{ready[name]['peak_GiB']:>10.2f}{ready[name]['built_s']:>7.1f}s"
        )
    seconds = {name: [sum(sum(step.values()) for step in turn) for turn in found] for name, found in turns.items()}
    ratios = sorted(theirs / ours for ours, theirs in zip(seconds["ours"], seconds["reference"]))
    print(f"reference / ours: median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")


if __name__ == "__main__":
    main()
