"""What a rehearsal found: each part, what it comes to over the run, and whether the run will get through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from library.core.durations import duration
from library.core.errors import Exit
from library.rehearsal.parts import Part

WIDTH = 120
MARKS = {"ok": "ok", "warning": "LOOK", "failure": "FAILS"}
FIRST, GAP = 6, 2
"""Columns of the mark, and between columns."""


@dataclass(frozen=True)
class Verdict:
    """All parts, in their order, and what they are judged by."""

    parts: Sequence[Part]
    now: float
    """In seconds since 1970."""
    steps: int
    """That the run is to make."""
    time_limit: float | None
    """`max_train_time`, in seconds."""
    price_per_hour: float | None

    @property
    def seconds(self) -> float:
        """Of the whole run, so far as its parts could be measured."""
        return sum(part.seconds for part in self.parts)

    @property
    def is_too_long(self) -> bool:
        """Whether max_train_time ends the run before it is done."""
        return self.time_limit is not None and self.seconds > self.time_limit

    @property
    def status(self) -> int:
        """The exit status: that of the first part that fails."""
        failed = next((part.status for part in self.parts if part.fails), None)
        return failed if failed is not None else Exit.TIME_UP if self.is_too_long else Exit.COMPLETE

    def text(self) -> str:
        """The table and the last words."""
        return f"{_table(self.parts)}\n\n{self._time()}\n{self._last_words()}"

    def _time(self) -> str:
        about = "at least" if any(part.fails for part in self.parts) else "about"
        end = time.strftime("%H:%M", time.localtime(self.now + self.seconds))
        days = _days(self.now, self.now + self.seconds)
        told = f"The whole run: {about} {duration(self.seconds)}; started now, it ends at {end}{f' {days}' if days else ''}"
        if self.price_per_hour is not None:
            cost = self.price_per_hour * self.seconds / 3600
            told += f", and costs {cost:.2f} at {self.price_per_hour:g} an hour"
        return f"{told}."

    def _last_words(self) -> str:
        failed = [f"{part.name}: {part.wrong}" for part in self.parts if part.fails]
        if self.is_too_long:
            failed.append(self._too_long())
        if failed:
            return "\n".join(["It will not get through:", *(_listed(each) for each in failed)])
        survived = [f"{part.name}: {part.wrong}" for part in self.parts if part.wrong]
        if survived:
            return "\n".join(["It will get through, but not with everything:", *(_listed(each) for each in survived)])
        return "It will get through."

    def _too_long(self) -> str:
        assert self.time_limit is not None
        once = sum(part.seconds for part in self.parts if not part.over_the_run)
        share = max(0.0, self.time_limit - once) / max(self.seconds - once, 1e-9)
        return (
            f"max_train_time stops it after {duration(self.time_limit)}, at about step {int(share * self.steps)} of {self.steps}. "
            "Raise it, train fewer steps, or let `--resume latest` continue."
        )


def _days(start: float, end: float) -> str:
    """tomorrow, in 3 days; nothing where it ends today."""
    first, last = (time.mktime((*time.localtime(moment)[:3], 12, 0, 0, 0, 0, -1)) for moment in (start, end))
    days = round((last - first) / 86400)
    return "" if days == 0 else "tomorrow" if days == 1 else f"in {days} days"


def _table(parts: Sequence[Part]) -> str:
    rows = [("", "part", "measured", "over the run"), *(_row(part) for part in parts)]
    widths = [max(len(row[column]) for row in rows) + GAP for column in (1, 2)]
    return "\n".join(
        f"{mark:{FIRST}}{name:{widths[0]}}{measured:{widths[1]}}{over}".rstrip() for mark, name, measured, over in rows
    )


def _row(part: Part) -> tuple[str, str, str, str]:
    mark = MARKS["failure" if part.fails else "warning" if part.wrong else "ok"]
    took = duration(part.seconds) if part.seconds else ""
    return (
        mark,
        part.name,
        part.measured or ("see below" if part.wrong else ""),
        ": ".join(filter(None, (part.over_the_run, took))),
    )


def _listed(text: str) -> str:
    return fill(
        text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
