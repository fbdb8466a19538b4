"""Shared by all tests: workers that run side by side share the cores instead of each taking all of them."""

from __future__ import annotations

import os

import pytest
import torch

from library.core import runtime


@pytest.fixture(scope="session", autouse=True)
def share_the_cores() -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        cores = max(1, runtime.available_cores() // workers)
        runtime.available_cores = lambda: cores  # type: ignore[assignment]
        torch.set_num_threads(cores)
