"""What was done: findings on single pictures, a table of all for the terminal, and everything as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from library.data.checks.findings import Finding
from library.data.checks.sizes import MOST_LOST, about_shape
from library.data.preparing.outcome import Outcome, Prepared, Request
from library.data.preparing.placing import Placed

LEFT_OUT = "It is left out."

KEEPING = "Crop the original yourself, choose with --focus what stays, or keep all of it with --fit area."

DONE = (
    "made smaller", "cropped", "enlarged", "smaller than trained", "another format", "turned upright", "transparent", "CMYK",
    "16 bits", "colour profile", "broken colour profile", "first frame", "borders trimmed",
)  # fmt: skip
"""Words of `Made.done`, in the order of the table."""


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


def table(prepared: Prepared, request: Request) -> str:
    """Counts of everything that was done, a line each."""
    used = prepared.used
    done = Counter(word for outcome in used for word in outcome.made.done)
    left_out = Counter(outcome.left_out for outcome in prepared.outcomes if outcome.left_out)
    lines = [
        ("pictures found", len(prepared.outcomes), ""),
        ("used for training", sum(outcome.part == "train" for outcome in used), ""),
        ("only for validation", sum(outcome.part == "validation" for outcome in used), ""),
        *((word, done[word], _remark(word, used, request)) for word in DONE),
        ("with a caption", sum(bool(outcome.original.captions) for outcome in used), ""),
        *((f"left out: {kind}", count, "") for kind, count in sorted(left_out.items())),
        (
            "originals gone",
            len(prepared.gone),
            "" if request.prune else "what was made of them stays; --prune removes it",
        ),
    ]
    if not request.dry_run:
        placed = prepared.placed
        lines += [
            ("files written", len(placed.new), ""),
            ("files as they were", len(placed.files) - len(placed.new), ""),
            ("files removed", len(placed.removed), "no longer made of any original"),
            ("files kept", len(placed.kept), "edited, or not ours"),
        ]
    shown = [(name, count, remark) for name, count, remark in lines if count or name == "used for training"]
    return "\n".join(f"{name:24}{count:>8}{f'   {remark}' if remark else ''}" for name, count, remark in shown)


def as_json(prepared: Prepared, request: Request) -> dict[str, Any]:
    """Everything of every picture."""
    return {
        "source": str(request.source),
        "out": str(request.out),
        "dry_run": request.dry_run,
        "settings": asdict(request.settings),
        "pictures": [_as_json(outcome) for outcome in prepared.outcomes],
        "gone": prepared.gone,
        "written": prepared.placed.new,
        "removed": prepared.placed.removed,
        "kept": prepared.placed.kept,
        "findings": [asdict(finding) for finding in prepared.findings],
    }


def _as_json(outcome: Outcome) -> dict[str, Any]:
    made = outcome.made
    facts = ("format", "size", "made_size", "trimmed", "kept", "lost", "done", "face")
    known = {fact: getattr(made, fact) for fact in facts} if not made.left_out else {}
    return {
        "original": str(outcome.original.path),
        "part": outcome.part,
        "file": outcome.target,
        "left_out": outcome.left_out,
        "reason": outcome.reason,
        **known,
        "captions": [str(path) for path in outcome.original.captions],
    }


def _remark(word: str, used: list[Outcome], request: Request) -> str:
    if word == "cropped":
        lost = [outcome.made.lost for outcome in used if word in outcome.made.done]
        return f"{sum(lost) / len(lost):.0%} of the picture lost on average, {max(lost):.0%} at most" if lost else ""
    if word == "smaller than trained":
        return "not enlarged here: the trainer does it; --upscale enlarges them now"
    if word == "transparent":
        settings = request.settings
        filled = f"filled with {settings.background_color}"
        return {"fill": filled, "keep": "kept", "mask": f"{filled}, and masks written"}[settings.opacity]
    return ""


def _about_made(outcome: Outcome) -> Iterator[Finding]:
    made, path, original = outcome.made, str(outcome.original.path), outcome.original
    if original.is_renamed:
        message = f"is named {original.stem} among the prepared ones: another picture here has its name."
        yield Finding("same name", "notice", path, message)
    if "first frame" in made.done:
        yield Finding("animated", "warning", path, "is animated.", "Its first frame is used.")
    if "broken colour profile" in made.done:
        yield Finding("colour profile", "notice", path, "has a broken colour profile.", "Its colours are read as sRGB.")
    if original.face is not None and made.face is None:
        yield Finding("face", "notice", path, "the face that its name tells of is cut off.")
    left, top, right, bottom = made.trimmed
    if made.lost > MOST_LOST:
        yield from about_shape(path, (right - left, bottom - top), made.made_size, made.lost, KEEPING)
