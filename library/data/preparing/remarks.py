"""What is said of each picture, beside the table of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from library.data.checks.findings import Finding
from library.data.preparing.outcome import Outcome
from library.data.preparing.placing import Placed

LEFT_OUT = "It is left out."


def about(outcomes: Iterable[Outcome]) -> Iterator[Finding]:
    """Reasons for which pictures are left out, and what is done to others that was not asked for."""
    for each in outcomes:
        made, path = each.made, str(each.original.path)
        if each.left_out in ("copy", "near copy"):
            yield Finding(each.left_out, "notice", path, each.reason, LEFT_OUT)
        elif each.left_out:
            yield Finding(each.left_out, "warning", path, each.reason, LEFT_OUT)
        else:
            yield from _about_made(each)
        if "borders trimmed" in made.done:
            (width, height), (left, top, right, bottom) = made.size, made.trimmed
            trimmed = f"{left} left, {top} top, {width - right} right, {height - bottom} bottom"
            yield Finding("borders", "notice", path, f"borders are trimmed, in pixels: {trimmed}.")


def about_kept(placed: Placed, folder: Path) -> Iterator[Finding]:
    """Files in the folder that were left as they are."""
    for name in placed.kept:
        message = "was edited since it was written, or is not ours."
        yield Finding("kept", "warning", str(folder / name), message, "It is kept; --overwrite replaces it.")


def _about_made(outcome: Outcome) -> Iterator[Finding]:
    made, path = outcome.made, str(outcome.original.path)
    if "first frame" in made.done:
        yield Finding("animated", "warning", path, "is animated.", "Its first frame is used.")
    if "broken colour profile" in made.done:
        yield Finding("colour profile", "notice", path, "has a broken colour profile.", "Its colours are read as sRGB.")
    if outcome.original.face is not None and made.face is None:
        yield Finding("face", "notice", path, "the face that its name tells of is cut off.")
