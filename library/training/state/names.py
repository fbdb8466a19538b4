"""What checkpoints are called, as sd-scripts calls them."""

from __future__ import annotations

import re
from typing import Literal

Unit = Literal["step", "epoch"]

STATE = "-state"

NUMBERED = {"epoch": r"-(\d{6})", "step": r"-step(\d{8})"}


def checkpoint_name(name: str, unit: Unit, number: int) -> str:
    """`name-000010` after an epoch, `name-step00000500` after a step."""
    return f"{name}-{number:06d}" if unit == "epoch" else f"{name}-step{number:08d}"


def numbered(name: str, unit: Unit, ending: str) -> re.Pattern[str]:
    """Matches what `checkpoint_name` gives with this ending; its group is the number."""
    return re.compile(re.escape(name) + NUMBERED[unit] + re.escape(ending))


def checkpoints(name: str, *endings: str) -> re.Pattern[str]:
    """Matches every checkpoint of a run with one of these endings, the final one included."""
    numbers = "|".join(NUMBERED.values())
    return re.compile(rf"{re.escape(name)}({numbers})?({'|'.join(map(re.escape, endings))})")
