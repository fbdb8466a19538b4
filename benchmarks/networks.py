"""Time a step of every network against LoRA's, and compare the memory.

    python -m benchmarks.networks --resolution 256 --work /tmp/full_size
    python -m benchmarks.networks --only networks.lokr "lycoris.kohya algo=lokr"

Each network is a process of its own that takes turns with the one that trains LoRA, so that a machine which slows down slows
both. Printed for each: its median step over LoRA's (smallest and largest of the turns), the peak memory of its process, loading
included, and the number of its parameters. Full size with random weights, network_dim 16 on the UNet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import sides
from benchmarks.full_size import draw_pictures, make_model
from benchmarks.step import ask, read
from library.core.registry import NETWORKS

LORA = "networks.lora"
FOREIGN = [f"lycoris.kohya algo={algo} preset=attn-mlp" for algo in ("lora", "loha", "lokr", "lora dora_wd=True")]


def main() -> None:
    """LoRA's process throughout, and the others' one after the other."""
    arguments = parse()
    if arguments.serve:
        serve(arguments)
        return
    make_model(arguments.work, "sd15", "bf16")
    draw_pictures(arguments.work / f"pictures-{arguments.resolution}", arguments.resolution)
    print(f"{'network':<44}{'step / LoRA':>12}{'from':>7}{'to':>7}{'peak GiB':>10}{'parameters':>12}")
    lora = start(arguments, LORA)
    read(lora)
    for network in arguments.only or [LORA, *sorted(set(NETWORKS.names()) - {LORA}), *FOREIGN]:
        compare(arguments, lora, network)
    lora.communicate("0\n")


def compare(arguments: argparse.Namespace, lora: subprocess.Popen[str], network: str) -> None:
    """One line of the table."""
    player = start(arguments, network)
    ready = read(player)
    if not ready:
        print(f"{network:<44} cannot be built here, with status {player.wait()}", flush=True)
        return
    ratios = []
    for _ in range(arguments.turns):
        ours, found = ask(lora, arguments.steps), ask(player, arguments.steps)
        ratios.append(statistics.median(found["steps"]) / statistics.median(ours["steps"]))
    player.communicate("0\n")
    print(
        f"{network:<44}{statistics.median(ratios):>12.2f}{min(ratios):>7.2f}{max(ratios):>7.2f}"
        f"{found['peak_GiB']:>10.2f}{json.loads(ready)['parameters']:>12,}",
        flush=True,
    )


def start(arguments: argparse.Namespace, network: str) -> subprocess.Popen[str]:
    """The process of one network."""
    command = [sys.executable, "-m", "benchmarks.networks", "--serve", network, "--work", str(arguments.work)]
    command += ["--resolution", str(arguments.resolution)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def serve(arguments: argparse.Namespace) -> None:
    """Build, then train as many steps as each line of the input says, until it says 0."""
    answers, sys.stdout = sys.stdout, sys.stderr
    module, *network_args = arguments.serve.split()
    options = ["--network_module", module, *(["--network_args", *network_args] if network_args else [])]
    side = sides.Ours(
        sides.Workload(
            model=make_model(arguments.work, "sd15", "bf16"),
            pictures=(arguments.work / f"pictures-{arguments.resolution}").absolute(),
            output=arguments.work / "output" / module,
            resolution=arguments.resolution,
            rank=16,
            options=options,
        )
    )
    trained = sum(weight.numel() for weight in side.weights() if weight.requires_grad)
    print(json.dumps({"parameters": trained}), file=answers, flush=True)
    while count := int(sys.stdin.readline() or 0):
        side.step()  # after the other's turn, caches are cold
        steps = []
        for _ in range(count):
            parts = side.step()
            steps.append(parts.data + parts.forward + parts.backward + parts.optimizer)
        print(json.dumps({"steps": steps, "peak_GiB": sides.peak_memory() / 2**30}), file=answers, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", help='networks, each maybe with its network_args: "networks.lokr factor=8"'
    )
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3, help="pairs of turns for each network (default: 3)")
    parser.add_argument(
        "--steps", type=int, default=3, help="measured steps of a turn, after one that is not (default: 3)"
    )
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where model and pictures are kept")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
