"""The log on a disk that is full: told at once, and never torn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from library.core.errors import Exit, UserError
from library.training.event_file import EventFile

ROOM = 1 << 17


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8))


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in EventAccumulator(str(folder)).Reload().Scalars("loss")]


def test_a_full_disk_is_told_where_it_happens_and_the_log_goes_on_with_space(disk_of: Callable[[int], Path]) -> None:
    folder = disk_of(ROOM) / "logs"
    events = EventFile(folder)
    events.scalars({"loss": 1.0, "rate": 0.5}, 1)
    with pytest.raises(UserError, match=r"events.out.tfevents.*No space left on device") as caught:
        events.image("sample", noise(300), 1)
    assert caught.value.exit_code == Exit.DISK_FULL
    assert losses(folder) == [(1, 1.0)], "nothing of the picture is left to make the log unreadable"
    events.scalars({"loss": 2.0}, 2)
    events.flush()
    assert losses(folder) == [(1, 1.0), (2, 2.0)]


def test_an_event_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    events = EventFile(tmp_path)
    for step in range(3):
        events.scalars({"loss": float(step)}, step)
        assert losses(tmp_path)[-1] == (step, step)


def test_a_log_that_cannot_be_begun_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file", encoding="utf-8")
    with pytest.raises(UserError, match="could not be written"):
        EventFile(tmp_path / "logs")
