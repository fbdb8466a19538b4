"""A run of thousands of steps that is killed again and again, against one that is left alone.

    python -m benchmarks.soak --work /tmp/soak --steps 3000 --kills 20 --seed 1

Both train the embedded demo. The one gets SIGKILL at random moments: while it fills its caches, in steps and updates, while it
writes LoRA files and states, samples, validates. After each it is started again with `--resume latest`. In the end the two LoRA files must
hold bitwise the same weights, and the same metadata but for the times. Prints a line for each kill; exit status 1 where
something differs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm

from benchmarks import ROOT
from benchmarks.blows import MOMENTS, Blow

SAVE_EVERY, SAMPLE_EVERY, VALIDATE_EVERY = 50, 100, 50

TIMES = ("ss_training_started_at", "ss_training_finished_at", "ss_session_id")
"""Metadata that two runs do not share; the modelspec's date is one too."""

NAME = "soak"


def main() -> int:
    """The two runs, and the comparison."""
    arguments = parse()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    started = time.perf_counter()
    status = start(arguments, "undisturbed", None)
    if status != 0:
        print(f"the undisturbed run ended with {status}; see {arguments.work / 'undisturbed.log'}")
        return 1
    undisturbed = time.perf_counter() - started
    print(f"undisturbed: {arguments.steps} steps in {undisturbed:.0f} s", flush=True)
    dice = random.Random(arguments.seed)
    numbers = tqdm(range(1, arguments.kills + 1), desc="kills", unit="kill")
    kills = sum(kill_once(arguments, number, drawn(dice, arguments)) for number in numbers)
    status = start(arguments, "killed", None)
    print(f"killed {kills} times: ended with {status} after {time.perf_counter() - started - undisturbed:.0f} s")
    return 1 if status or not kills else compare(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="emptied at the start")
    parser.add_argument("--steps", type=int, default=3000, help="default %(default)s")
    parser.add_argument("--kills", type=int, default=20, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the moments; default %(default)s")
    return parser.parse_args()


def drawn(dice: random.Random, arguments: argparse.Namespace) -> Blow:
    """A random moment about as far from the start as all kills together need to reach the end."""
    moment = dice.choice(list(MOMENTS))
    ahead = 2 * arguments.steps // arguments.kills  # steps; half of it on average
    most = {
        "caching": 20,
        "step": ahead,
        "update": ahead,
        "saving": ahead // SAVE_EVERY,
        "saving a state": ahead // SAVE_EVERY,
        "sampling": ahead // SAMPLE_EVERY,
        "validation": ahead // VALIDATE_EVERY,
    }[moment]
    return Blow(moment, dice.randint(1, max(1, most)), dice.uniform(0.0, 0.15))


def kill_once(arguments: argparse.Namespace, number: int, blow: Blow) -> bool:
    """Start the run, have it killed, and say what it had done by then; returns whether it was."""
    if blow.moment == "caching":
        shutil.rmtree(arguments.work / "cache-killed", ignore_errors=True)
    status = start(arguments, "killed", blow)
    states = [path.name for path in (arguments.work / "killed").glob(f"{NAME}-step*-state")]
    newest = max((int(name.removeprefix(f"{NAME}-step").removesuffix("-state")) for name in states), default=0)
    killed = "killed" if status == -signal.SIGKILL else f"ended by itself with {status}"
    tqdm.write(
        f"{number:2}. {killed} {1000 * blow.delay:.0f} ms after the beginning of {blow.moment} number {blow.count}; "
        f"the last state is of step {newest}",
        file=sys.stdout,
    )
    sys.stdout.flush()
    return status == -signal.SIGKILL


def start(arguments: argparse.Namespace, name: str, blow: Blow | None) -> int:
    """One start of a run, to its end; returns its exit status, negative for a signal."""
    prompts = arguments.work / "prompts.txt"
    prompts.write_text("alexander, fighter, full body --s 4 --d 1\n", encoding="utf-8")
    options = {
        "output_dir": arguments.work / name, "output_name": NAME, "cache_dir": arguments.work / f"cache-{name}",
        "max_train_steps": arguments.steps, "train_batch_size": 1, "save_every_n_steps": SAVE_EVERY,
        "save_last_n_steps": 200, "save_last_n_steps_state": 100, "sample_prompts": prompts,
        "sample_every_n_steps": SAMPLE_EVERY, "validate_every_n_steps": VALIDATE_EVERY, "cache_latents": "true",
        "cache_latents_to_disk": "true", "resume": "latest", "progress": "false",
    }  # fmt: skip
    runner = ["train_network.py"] if blow is None else ["-m", "benchmarks.blows", json.dumps(asdict(blow))]
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, *runner, "--config", "presets/character.toml", *words]
    with (arguments.work / f"{name}.log").open("a", encoding="utf-8") as log:
        return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode


def compare(arguments: argparse.Namespace) -> int:
    """Say whether the two LoRA files are alike."""
    opened = [safe_open(arguments.work / name / f"{NAME}.safetensors", "pt") for name in ("undisturbed", "killed")]
    one, other = ({key: file.get_tensor(key) for key in file.keys()} for file in opened)  # noqa: SIM118  # no dictionary
    differing = [
        key
        for key in one.keys() | other.keys()
        if key not in one or key not in other or not torch.equal(one[key], other[key])
    ]
    first, second = (
        {key: value for key, value in file.metadata().items() if key not in TIMES and "date" not in key}
        for file in opened
    )
    facts = [key for key in first.keys() | second.keys() if first.get(key) != second.get(key)]
    print(
        f"{len(one)} tensors, {len(differing)} differ; metadata that differ: {', '.join(sorted(facts)) or 'none but times'}"
    )
    return 1 if differing or facts else 0


if __name__ == "__main__":
    sys.exit(main())
