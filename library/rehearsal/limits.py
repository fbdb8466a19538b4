"""What a rehearsed run was measured to need, beside what there is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from library.core.disk import amount, existing, free_space
from library.core.errors import Exit, UserError
from library.core.memory import LESS
from library.rehearsal.parts import Part
from library.training.loop import Span
from library.training.needs.disk import Writing, kept_files
from library.training.needs.estimate import CUDA_CONTEXT, GIB
from library.training.run import Run

LINUX_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int:
    """Bytes that this process had at most on the device so far, as system tools show it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) + CUDA_CONTEXT
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    if LINUX_STATUS.exists():  # what `getrusage` tells there may be that of the process that started this one
        (line,) = [line for line in LINUX_STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def judge_memory(part: Part, device: torch.device, there_is: int, estimated: int | None) -> None:
    """Fill in the memory's part.

    Args:
        there_is: bytes that the process could have had when it began.
        estimated: bytes.

    Raises:
        UserError: with `Exit.OUT_OF_MEMORY`, it took more than there was.
    """
    peak = peak_memory(device)
    part.measured = f"{peak / GIB:.2f} GiB at most"
    if device.type == "cuda":
        part.measured += f", {torch.cuda.max_memory_allocated(device) / GIB:.2f} of it in use"
    guess = "" if estimated is None else f"{estimated / GIB:.2f} were estimated, "
    part.over_the_run = f"{guess}{there_is / GIB:.2f} GiB were free"
    if peak > there_is:
        raise UserError(
            f"the run took {peak / GIB:.2f} GiB, and only {there_is / GIB:.2f} were free: a part of it was moved to disk, which "
            f"is slow, and the system may end it. {LESS}",
            Exit.OUT_OF_MEMORY,
        )


def judge_disk(part: Part, run: Run, span: Span, sizes: tuple[int, int], others: Sequence[Writing]) -> None:
    """Fill in the part of the disk that the output folder is on.

    Args:
        sizes: bytes of the LoRA file and of the state, as they were written.
        others: what else the run will write.

    Raises:
        UserError: with `Exit.DISK_FULL`, it will not have room.
    """
    kept = kept_files(run.config.saving, span)
    saved = kept.loras * sizes[0] + kept.states * sizes[1]
    disk = existing(run.folder).stat().st_dev
    total = saved + sum(each.total for each in others if existing(each.folder).stat().st_dev == disk)
    room = free_space(run.folder)
    part.measured = f"{amount(sizes[0])} a LoRA file, {amount(sizes[1])} a state"
    states = f", {kept.states} states" if kept.states else ""
    part.over_the_run = (
        f"{amount(total)} with {kept.loras} files{states}{'' if room is None else f'; {amount(room)} free'}"
    )
    if room is not None and total > room:
        raise UserError(
            f"the run will hold {amount(total)} in {run.folder} and on the same disk, and {amount(room)} are free. Free some space, "
            "name another output_dir, save less often, or keep fewer files (save_last_n_steps, save_last_n_epochs, "
            "save_last_n_steps_state, save_last_n_epochs_state).",
            Exit.DISK_FULL,
        )
