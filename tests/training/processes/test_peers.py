"""Where one of two real processes fails, dies or freezes, the other one says so and ends; see `pairs_of_processes`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from library.core.errors import Exit

ROOT = Path(__file__).resolve().parents[3]

Told = Callable[[str, int], tuple[int | None, str]]

KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else 0

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the pairs are forked")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """`told(case, rank)`: how that process of the pair ended, and what it wrote to stderr. All pairs live at the same time."""
    folder = tmp_path_factory.mktemp("pairs")
    command = [sys.executable, str(Path(__file__).with_name("pairs_of_processes.py")), str(folder)]
    subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=240, stdout=subprocess.DEVNULL
    )
    statuses = json.loads((folder / "statuses.json").read_text())
    return lambda case, rank: (statuses[f"{case}.{rank}"], (folder / f"{case}.{rank}.stderr").read_text())


@pytest.mark.parametrize("case", ["both_end", "main_is_last"])
def test_processes_that_end_apart_end_well(told: Told, case: str) -> None:
    for rank in (0, 1):
        status, text = told(case, rank)
        assert status == Exit.COMPLETE, text
        assert "error" not in text


@pytest.mark.parametrize(
    ("case", "other", "status", "message"),
    [
        ("other_raises", 1, Exit.MISTAKE, "process 1 failed: the pictures of process one are gone all of them"),
        ("main_raises", 0, 1, "process 0 failed: ValueError: no space for the file"),
        ("other_is_mistaken", 1, Exit.MISTAKE, "process 1 failed: command line: unknown key 'max_train_epoch'"),
        ("main_is_mistaken", 0, Exit.MISTAKE, "process 0 failed: command line: unknown key 'max_train_epoch'"),
        ("caching_fails", 1, Exit.MISTAKE, "process 1 failed: "),
        (
            "other_killed_in_exchange",
            1,
            KILLED,
            "s (noticed here as RuntimeError",
        ),
        ("other_killed_while_main_samples", 1, KILLED, "process 1 has not been heard of for 12 s"),
        ("other_freezes", 1, None, "process 1 has not been heard of for 12 s"),
        ("main_freezes", 0, None, "process 0 or its launcher, at 127.0.0.1"),
        ("main_killed", 0, KILLED, "the connection to process 0 or its launcher, at 127.0.0.1"),
        ("main_killed_in_a_step", 0, KILLED, "the connection to process 0 or its launcher, at 127.0.0.1"),
        ("other_never_comes", 1, KILLED, "process 1 has not been heard of for 6 s"),
    ],
)
def test_the_end_of_one_is_the_end_of_all(told: Told, case: str, other: int, status: int | None, message: str) -> None:
    """The one that is left has a status of its own and says what happened to the other."""
    own, text = told(case, 1 - other)
    assert own == Exit.PROCESS_LOST, text
    assert message in text
    assert "Traceback" not in text
    assert told(case, other)[0] == status


def test_an_error_that_all_find_is_told_as_it_is(told: Told) -> None:
    for rank in (0, 1):
        status, text = told("both_raise", rank)
        assert (status, text.partition(": ")[2]) == (Exit.MISTAKE, "found by both\n")


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("settings_differ", ["learning_rate: 0.1 in process 0 on ", "1.1 in process 1 on "]),
        (
            "states_differ",
            ["last-state at step 2, seed 1, ", "no state in process 1 on ", "Copy the newest -state folder"],
        ),
        ("frozen_parts_differ", ["different weights of the network's frozen part (of network_weights"]),
        ("pictures_differ", ["1_hero/2.png, pictures/1_hero/3.png (absent in process 1 on "]),
    ],
)
def test_processes_that_differ_do_not_train(told: Told, case: str, messages: list[str]) -> None:
    """Each tells the difference; what each machine may have of its own is none."""
    for rank in (0, 1):
        status, text = told(case, rank)
        assert status == Exit.MISTAKE, text
        assert all(message in text for message in messages), text
        assert "cache_dir" not in text
