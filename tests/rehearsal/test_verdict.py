"""What is said at the end of a rehearsal."""

from __future__ import annotations

import time

import pytest

from library.core.durations import duration
from library.core.errors import Exit
from library.rehearsal.parts import Part
from library.rehearsal.verdict import Verdict

EVENING = time.mktime((2026, 11, 22, 22, 30, 0, 0, 0, -1))
START = Part("start-up", seconds=100)
STEPS = Part("steps at 512x512", "7.0 s each", "1000 steps", seconds=7000)


def verdict(*parts: Part, limit: float | None = None, price: float | None = None) -> Verdict:
    return Verdict([START, STEPS, *parts], EVENING, 1000, limit, price)


def test_a_run_that_gets_through() -> None:
    found = verdict(Part("saving", "0.5 s", "8 times", seconds=4), price=1.5)
    assert found.status == Exit.COMPLETE
    table, words = found.text().split("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["part", "ok", "ok", "ok"]
    assert "1000 steps: 1 h 57 min" in table
    assert words.splitlines() == [
        "The whole run: about 1 h 58 min; started now, it ends at 00:28 tomorrow, and costs 2.96 at 1.5 an hour.",
        "It will get through.",
    ]


def test_the_first_failure_gives_the_status_and_all_are_told() -> None:
    full = Part("saving", wrong="no room.", status=Exit.DISK_FULL)
    broken = Part("resuming", wrong="differs.", status=Exit.MISTAKE)
    found = verdict(full, broken)
    assert found.status == Exit.DISK_FULL
    assert "at least 1 h 58 min" in found.text()
    assert found.text().endswith("It will not get through:\n  - saving: no room.\n  - resuming: differs.")
    assert found.text().count("FAILS ") == 2


def test_what_the_run_survives_is_told_too() -> None:
    found = verdict(Part("sampling 64x64", wrong="out of memory."))
    assert found.status == Exit.COMPLETE
    assert "LOOK  sampling 64x64" in found.text()
    assert found.text().endswith("It will get through, but not with everything:\n  - sampling 64x64: out of memory.")


def test_a_time_limit_that_is_too_short() -> None:
    """100 s of start-up leave 3500 s of the 7000 s that 1000 steps take."""
    found = verdict(limit=3600)
    assert found.status == Exit.TIME_UP
    assert "after 1 h 0 min, at about step 500 of 1000" in found.text()
    assert verdict(limit=7200).status == Exit.COMPLETE


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0412, "0.041 s"), (4.21, "4.2 s"), (41.4, "41 s"), (89.4, "89 s"), (95, "2 min"), (3570, "1 h 0 min"), (24000, "6 h 40 min"),
        (48.2 * 3600, "2 d 0 h"), (183600, "2 d 3 h"),
    ],
)  # fmt: skip
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
