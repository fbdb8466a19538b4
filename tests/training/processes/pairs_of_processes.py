"""Pairs of real processes that come to grief in one way each, all at once: `python pairs_of_processes.py FOLDER`.

Some only do what a run does with its processes; others train a tiny model, each in a folder of its own, as on two machines.
Everything is imported once and each process is forked from that, so that a pair takes no start-up of its own. Writes
`FOLDER/CASE.RANK.stderr`, and every exit status to `FOLDER/statuses.json`; a process that has to be ended has the status null.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import Image

import tests.end_to_end.preloaded  # noqa: F401
import train_network
from library.core.errors import UserError
from library.core.runtime import run_command
from library.models.published import recipe
from library.models.random_weights import write_folder
from library.training.processes import peers
from library.training.processes.agreement import require_same_settings, require_same_weights
from library.training.processes.peers import ending_together
from library.training.step import Trainer

LIMIT = 120.0
"""Seconds after which a process hangs."""

FROZEN = {"other_freezes.1", "main_freezes.0"}
"""Processes that never end by themselves."""


def wait_for_others(accelerator: Accelerator) -> None:
    """Be inside a collective, as in a step."""
    torch.distributed.barrier()


def both_end(accelerator: Accelerator, rank: int) -> None:
    """Rank 0 is done first, and with it could go the store."""
    time.sleep(3 * rank)


def main_is_last(accelerator: Accelerator, rank: int) -> None:
    time.sleep(3 * (1 - rank))


def other_raises(accelerator: Accelerator, rank: int) -> None:
    if rank == 1:
        raise UserError("the pictures of process one are gone\nall of them")
    wait_for_others(accelerator)


def main_raises(accelerator: Accelerator, rank: int) -> None:
    if rank == 0:
        raise ValueError("no space for the file")
    time.sleep(LIMIT)


def both_raise(accelerator: Accelerator, rank: int) -> None:
    """As with a gradient that is not finite: it is so on all."""
    raise UserError("found by both")


def other_killed_in_exchange(accelerator: Accelerator, rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    wait_for_others(accelerator)


def other_killed_while_main_samples(accelerator: Accelerator, rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LIMIT)


def other_freezes(accelerator: Accelerator, rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    wait_for_others(accelerator)


def main_freezes(accelerator: Accelerator, rank: int) -> None:
    """Once rank 1 has found the store, too."""
    if rank == 0:
        time.sleep(5)
        os.kill(os.getpid(), signal.SIGSTOP)
    wait_for_others(accelerator)


def main_killed(accelerator: Accelerator, rank: int) -> None:
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(LIMIT)


def other_never_comes(accelerator: Accelerator, rank: int) -> None:
    """Rank 1 is killed before it joins, see `live`."""


def settings_differ(accelerator: Accelerator, rank: int) -> None:
    require_same_settings(accelerator, {"learning_rate": 0.1 + rank, "seed": 1, "cache_dir": str(rank)})


def frozen_parts_differ(accelerator: Accelerator, rank: int) -> None:
    """By the last bit of one value; the trained values and the base model are the same."""
    kept = torch.ones(3, 2)
    kept[2, 1] += rank * torch.finfo(kept.dtype).eps
    require_same_weights(accelerator, torch.zeros(4), {"adapter.down": kept}, "the base model's fingerprint")


CASES: dict[str, Callable[[Accelerator, int], None]] = {
    case.__name__: case
    for case in (
        both_end, main_is_last, other_raises, main_raises, both_raise, other_killed_in_exchange, other_killed_while_main_samples,
        other_freezes, main_freezes, main_killed, other_never_comes, settings_differ,
        frozen_parts_differ,
    )
}  # fmt: skip


def other_is_mistaken(there: Path, rank: int) -> list[str]:
    """Found before the processes join."""
    return ["--cache_dir", "cache"] if rank == 0 else ["--max_train_epoch", "3"]


def main_is_mistaken(there: Path, rank: int) -> list[str]:
    return ["--cache_dir", "cache"] if rank == 1 else ["--max_train_epoch", "3"]


def caching_fails(there: Path, rank: int) -> list[str]:
    """On rank 1 a file is where the cache's folder should be."""
    if rank == 1:
        Path("cache").mkdir()
        Path("cache/latents").write_text("not a folder")
    return ["--cache_latents_to_disk", "true", "--cache_dir", "cache"]


def main_killed_in_a_step(there: Path, rank: int) -> list[str]:
    if rank == 0:
        Trainer.reduce_gradients = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    return []


def states_differ(there: Path, rank: int) -> list[str]:
    """Only rank 0 wrote the state."""
    if rank == 0:
        shutil.copytree(there / "whole" / "out", "out")
    return ["--resume", "latest"]


def pictures_differ(there: Path, rank: int) -> list[str]:
    if rank == 1:
        Path("pictures/1_hero/2.txt").write_text("hero, in another coat")
        Path("pictures/1_hero/3.png").unlink()
    return []


TRAININGS: dict[str, Callable[[Path, int], list[str]]] = {
    case.__name__: case
    for case in (
        other_is_mistaken,
        main_is_mistaken,
        caching_fails,
        main_killed_in_a_step,
        states_differ,
        pictures_differ,
    )
}


def prepare(there: Path) -> None:
    """A tiny model, four pictures, and a run of one process that saved a state."""
    write_folder(recipe("sd15", tiny=True), there / "model")
    folder = there / "pictures" / "1_hero"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 90, 255 - 60 * number)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"hero, coat {number}")
    shutil.copytree(there / "pictures", there / "whole" / "pictures")
    os.chdir(there / "whole")
    train(there, ["--max_train_steps", "2", "--save_state", "true"])


def train(there: Path, options: list[str]) -> int:
    """`train_network.py` in the folder where we are, with its own copy of the pictures; returns the exit status."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.argv = [
        "train_network.py", "--pretrained_model_name_or_path", str(there / "model"), "--train_data_dir", "pictures", "--resolution",
        "64", "--output_dir", "out", "--max_train_steps", "5", "--seed", "1", "--progress", "false", *options,
    ]  # fmt: skip
    return run_command(train_network.main)


def live(case: str, rank: int, port: int, folder: Path) -> None:
    """Be one of a pair; does not return."""
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / f"{case}.{rank}.{stream}", os.O_CREAT | os.O_WRONLY), number)
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    peers.POLL, peers.SILENCE = 0.5, 24
    if case == "other_never_comes":
        peers.ARRIVAL = 12
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    if case in TRAININGS:
        here = folder / case / str(rank)
        shutil.copytree(folder / "pictures", here / "pictures")
        os.chdir(here)
        sys.exit(train(folder, TRAININGS[case](folder, rank)))

    def main() -> None:
        with ending_together() as join:
            CASES[case](join(), rank)

    sys.exit(run_command(main))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(folder: Path) -> None:
    preparing = os.fork()
    if not preparing:
        prepare(folder)
        os._exit(0)
    os.waitpid(preparing, 0)
    running: dict[str, int] = {}
    for case in [*CASES, *TRAININGS]:
        port = free_port()
        for rank in (0, 1):
            number = os.fork()
            if not number:
                live(case, rank, port, folder)
            running[f"{case}.{rank}"] = number
    (folder / "statuses.json").write_text(json.dumps(waited_for(running)))


def waited_for(running: dict[str, int]) -> dict[str, int | None]:
    """The exit status of each process, minus the number of the signal that killed it, or None where it never ended."""
    statuses: dict[str, int | None] = {}
    limit = time.monotonic() + LIMIT
    while running:
        time.sleep(0.1)
        hanging = time.monotonic() > limit or running.keys() <= FROZEN
        for name, number in list(running.items()):
            if hanging:
                os.kill(number, signal.SIGKILL)
            done, status = os.waitpid(number, 0 if hanging else os.WNOHANG)
            if done:
                statuses[name] = None if hanging else os.waitstatus_to_exitcode(status)
                del running[name]
    return statuses


if __name__ == "__main__":
    main(Path(sys.argv[1]))
