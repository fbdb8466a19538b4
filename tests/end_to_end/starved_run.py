"""A run in a process that the system leaves little memory from its first step on:  starved_run.py MIB OPTIONS...

Halves of its first batch are gone through before the limit, so that it lies between what they take and what the whole takes. It
is oneDNN's compiled kernels that may not be had any more after a failure, in that thread; this run does without oneDNN.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import train_network
from library.core.runtime import run_command
from library.training.batch import Batch
from library.training.step import Trainer
from networks.arithmetic import low_rank


def size_of_process() -> int:
    """Bytes of addresses in use, which is what the limit counts."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def starve(room: int) -> None:
    """Allow so many bytes more than halves of the first batch take."""
    accumulate_all = Trainer.accumulate_all

    def first_time(trainer: Trainer, passes: Sequence[Batch]) -> list[Tensor]:
        Trainer.accumulate_all = accumulate_all  # type: ignore[method-assign]
        torch.backends.mkldnn.set_flags(False)
        low_rank.ONEDNN_LINEAR = None
        for half in passes[0].halves():
            trainer.accumulate(half)
        trainer.groups.zero_grad()
        limit = size_of_process() + room
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        return accumulate_all(trainer, passes)

    Trainer.accumulate_all = first_time  # type: ignore[method-assign]


if __name__ == "__main__":
    starve(int(sys.argv.pop(1)) << 20)
    sys.exit(run_command(train_network.main))
