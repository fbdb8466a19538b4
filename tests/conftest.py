"""Shared by all tests: workers that run side by side share the cores instead of each taking all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from library.core import runtime


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole_matrix", action="store_true", help="every way to stop and resume, not only pairwise")


@pytest.fixture(scope="session", autouse=True)
def share_the_cores() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        cores = max(1, runtime.available_cores() // workers)
        runtime.available_cores = lambda: cores  # type: ignore[assignment]
        torch.set_num_threads(cores)


@pytest.fixture(scope="session", autouse=True)
def hear_signals() -> None:
    """Whoever starts the tests in the background has them ignore some signals, and all that they start."""
    if threading.current_thread() is threading.main_thread():
        for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`disk_of(size)`: a disk of its own with so many bytes (a multiple of 4096); skips where none can be mounted."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            pytest.skip("only root can mount a disk, on Linux")
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # what is still open goes with its user
