"""Pictures before and after, to be looked at: what was cut off of each original is dimmed and outlined."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance

from library.core.errors import UserError
from library.core.runtime import available_cores
from library.data.pictures.images import PictureError, over_background
from library.data.preparing.borders import Box
from library.data.preparing.outcome import Outcome, Prepared
from library.data.preparing.reading import read_header, read_picture

MOST_ROWS = 60
"""Of which most was cut off; a sheet of more cannot be looked at."""

SIDE = 256
"""Longest side of a picture on the sheet, in pixels."""

OUTLINE = (230, 30, 60)


def shown_on_sheet(prepared: Prepared) -> list[Outcome]:
    """Those that are worth showing: the ones of which most was cut off or trimmed, first."""
    kept = set(prepared.placed.kept)
    return sorted((outcome for outcome in prepared.used if outcome.target not in kept), key=_left)[:MOST_ROWS]


def before_and_after(outcomes: Sequence[Outcome], folder: Path | None) -> list[list[Image.Image]]:
    """For each outcome its original with the outline of what is kept, and what was made of it.

    Args:
        folder: of the prepared pictures; None: they were not written, and what would be made is cut out of the original.

    Raises:
        UserError: a picture was removed or damaged in the meantime.
    """
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        return list(pool.map(lambda outcome: _pair(outcome, folder), outcomes))


def caption(outcome: Outcome) -> str:
    """What stands under a pair."""
    made = outcome.made
    sizes = f"{made.size[0]}x{made.size[1]} -> {made.made_size[0]}x{made.made_size[1]}"
    lost = f", {1 - _left(outcome):.0%} cut off" if _left(outcome) < 1 else ""
    return f"{outcome.original.path.name}: {sizes}{lost}"


def _left(outcome: Outcome) -> float:
    """Share of the original's area that is left."""
    left, top, right, bottom = outcome.made.kept
    return (right - left) * (bottom - top) / (outcome.made.size[0] * outcome.made.size[1])


def _pair(outcome: Outcome, folder: Path | None) -> list[Image.Image]:
    whole = _read(outcome.original.path)
    made = whole.crop(outcome.made.kept) if folder is None else _read(folder / outcome.target)
    return [_outlined(whole, outcome.made.kept), _shown(made)]


def _read(path: Path) -> Image.Image:
    try:
        data = path.read_bytes()
        return over_background(read_picture(data, read_header(data)), "white")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except PictureError as error:
        raise UserError(f"{path}: {error}") from error


def _outlined(whole: Image.Image, kept: Box) -> Image.Image:
    shown = _shown(whole)
    left, top, right, bottom = (round(edge * max(shown.size) / max(whole.size)) for edge in kept)
    dimmed = ImageEnhance.Brightness(shown).enhance(0.4)
    dimmed.paste(shown.crop((left, top, right, bottom)), (left, top))
    ImageDraw.Draw(dimmed).rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=OUTLINE, width=2)
    return dimmed


def _shown(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)
