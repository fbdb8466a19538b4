"""Parts of a rehearsal that fail."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest
import torch

from library.core.errors import Exit, UserError
from library.rehearsal.parts import UNEXPECTED, Parts


def allocate_too_much() -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


def fill_the_disk(*args: object) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_what_goes_well_is_kept_in_order() -> None:
    parts = Parts()
    for name in ("one", "two"):
        with parts.part(name) as part:
            part.measured = name.upper()
    assert [(part.name, part.measured, part.fails) for part in parts.tried] == [
        ("one", "ONE", False),
        ("two", "TWO", False),
    ]


def test_a_mistake_keeps_its_status() -> None:
    parts = Parts()
    with parts.part("steps"):
        raise UserError("the loss is not finite.", Exit.BROKEN_VALUES)
    (part,) = parts.tried
    assert (part.wrong, part.status, part.fails) == ("the loss is not finite.", Exit.BROKEN_VALUES, True)


def test_lack_of_memory_and_of_room_have_theirs() -> None:
    parts = Parts()
    with parts.part("steps"):
        allocate_too_much()
    assert parts.tried[0].status == Exit.OUT_OF_MEMORY
    if Path("/dev/full").exists():
        with parts.part("saving"):
            fill_the_disk()
        assert parts.tried[1].status == Exit.DISK_FULL
    with parts.part("saving"):
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    assert parts.tried[-1].status == Exit.DISK_FULL


def test_what_nobody_foresaw_is_shown_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    with caplog.at_level(logging.WARNING), parts.part("network"):
        raise ZeroDivisionError("by zero")
    assert (parts.tried[0].wrong, parts.tried[0].status) == ("ZeroDivisionError: by zero", UNEXPECTED)
    assert "test_what_nobody_foresaw" in caplog.text


def test_a_failure_that_the_run_survives_has_no_status() -> None:
    parts = Parts()
    with parts.part("sampling", survived=True):
        raise UserError("no such sampler.")
    assert parts.tried[0].wrong and not parts.tried[0].fails


def test_ctrl_c_ends_the_rehearsal() -> None:
    with pytest.raises(KeyboardInterrupt), Parts().part("steps"):
        raise KeyboardInterrupt
