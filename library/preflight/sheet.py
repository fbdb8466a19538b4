"""The contact sheet: every picture with what was found about it written on it, those with problems first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from PIL import Image, ImageDraw

from library.config.dataset import Dataset
from library.core.runtime import available_cores
from library.core.wording import how_many
from library.data.checks.findings import SEVERITIES, Finding
from library.data.index.sources import Survey
from library.data.pictures.images import PictureError
from library.data.pictures.lettering import lettering
from library.data.pictures.pages import write_pages
from library.data.pictures.room import Room
from library.preflight.cards import Card, cards, chunks, shown

SIDE = 232
"""Pixels of the square that a picture is shown in."""
GAP = 20
COLUMNS, ROWS = 6, 7
NOTES, LINE = 98, 16
"""Pixels under a picture, for its name, its sizes and two lines of what was found; and the height of such a line."""
HEAD = 84
MARKS = 5
"""Problems that are written on one picture."""
UNKNOWN_SIZE = (8192, 8192)
"""Room for a picture whose size was never read."""

PAPER, INK, FAINT, FRAME, EMPTY = "#ffffff", "#1d1f23", "#6b7078", "#d5d8dc", "#eceef1"
COLOURS = {"error": "#c62828", "warning": "#a85400", "notice": "#2b5d9b"}
"""Each bears white letters."""

TITLE, NAME, NOTE, MARK = 26, 15, 13, 14
"""Heights of letters."""


@dataclass(frozen=True)
class Heading:
    """What stands above the pictures of every page."""

    title: str
    findings: Sequence[Finding]
    pictures: int
    """That there are, on the sheet or not."""
    on_sheet: int


def write_sheet(
    file: Path, title: str, survey: Survey, datasets: Sequence[Dataset], findings: Sequence[Finding], most: int
) -> list[Path]:
    """Write the sheet, on as many pages as it needs: `sheet.png`, `sheet-2.png`, and so on, in place of a former one.

    Args:
        findings: of the report: those of the survey among them.
        most: pictures on the sheet.

    Returns:
        The files; none where there is no picture at all.

    Raises:
        UserError: a file cannot be written.
    """
    chosen = cards(survey.pictures, datasets, findings, most)
    heading = Heading(title, findings, _count_of(survey, chosen), len(chosen))
    return write_pages(file, (_page(page, heading) for page in chunks(chosen, COLUMNS * ROWS)))


def _count_of(survey: Survey, chosen: Sequence[Card]) -> int:
    """Pictures that are trained, and those that are left out so far as the sheet shows them."""
    return len(survey.pictures) + sum(card.picture is None for card in chosen)


def _page(page: Sequence[Card], heading: Heading) -> Image.Image:
    columns = min(COLUMNS, max(3, len(page)))
    rows = [page[start : start + columns] for start in range(0, len(page), columns)]
    tops = list(accumulate((SIDE + _notes(row) for row in rows), initial=HEAD))
    width = columns * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, tops[-1]), PAPER)
    draw = ImageDraw.Draw(sheet)
    _head(draw, heading, width - 2 * GAP)
    room = Room()

    def thumbnail_of(card: Card) -> Image.Image | str:
        with room.taken(card.picture.size if card.picture else UNKNOWN_SIZE):
            try:
                return shown(card, SIDE)
            except PictureError as error:
                return str(error)

    with ThreadPoolExecutor(max_workers=max(2, available_cores())) as pool:
        for index, (card, image) in enumerate(zip(page, pool.map(thumbnail_of, page))):
            at = GAP + index % columns * (SIDE + GAP), tops[index // columns]
            _place(sheet, draw, at, card, image)
    return sheet


def _notes(row: Sequence[Card]) -> int:
    """Height of what stands under the pictures of a row, with the gap to the next."""
    return NOTES if any(card.findings for card in row) else NOTES - 2 * LINE


def _head(draw: ImageDraw.ImageDraw, heading: Heading, width: int) -> None:
    """The title, then the counts of each severity in its colour and what the outline means."""
    draw.text((GAP, GAP - 4), lettering(TITLE).cut(heading.title, width), INK, lettering(TITLE).font)
    counts = Counter(finding.severity for finding in heading.findings)
    x, y = float(GAP), GAP + 30
    for severity in SEVERITIES:
        if counts[severity]:
            text = how_many(counts[severity], severity)
            draw.rounded_rectangle((x, y, x + lettering(MARK).width(text) + 16, y + 22), 11, COLOURS[severity])
            draw.text((x + 8, y + 11), text, PAPER, lettering(MARK).font, anchor="lm")
            x += lettering(MARK).width(text) + 26
    some = (
        f"{heading.on_sheet} of {heading.pictures} pictures" if heading.on_sheet < heading.pictures else "all pictures"
    )
    told = f"{some}, those with problems first; what training cuts away is faded"
    draw.text(
        (x + 2, y + 11), lettering(NOTE).cut(told, round(width + GAP - x)), FAINT, lettering(NOTE).font, anchor="lm"
    )


def _place(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, at: tuple[int, int], card: Card, image: Image.Image | str
) -> None:
    """One picture with its frame, its marks and the words under it."""
    x, y = at
    worst = COLOURS[card.findings[0].severity] if card.findings else FRAME
    draw.rectangle((x - 3, y - 3, x + SIDE + 2, y + SIDE + 2), EMPTY, worst, 3 if card.findings else 1)
    if isinstance(image, str):
        _placeholder(draw, at, image if card.picture else _why_left_out(card))
    else:
        sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
    _marks(draw, at, card.findings)
    y += SIDE + 10
    draw.text((x, y), lettering(NAME).cut(card.path.name, SIDE), INK, lettering(NAME).font)
    draw.text((x, y + 20), lettering(NOTE).cut(_sizes(card), SIDE), FAINT, lettering(NOTE).font)
    if card.findings and not isinstance(image, str):
        for number, line in enumerate(lettering(NOTE).lines(_told(card), SIDE, 2)):
            draw.text((x, y + 38 + LINE * number), line, worst, lettering(NOTE).font)


def _why_left_out(card: Card) -> str:
    """What was found, with what to do."""
    return " ".join(dict.fromkeys(f"{each.message} {each.advice}".strip() for each in card.findings))


def _placeholder(draw: ImageDraw.ImageDraw, at: tuple[int, int], reason: str) -> None:
    """A crossed frame in place of a picture that cannot be shown, with the reason."""
    x, y = at
    draw.line((x, y, x + SIDE - 1, y + SIDE - 1), FRAME, 2)
    draw.line((x, y + SIDE - 1, x + SIDE - 1, y), FRAME, 2)
    lines = lettering(NOTE).lines(reason, SIDE - 40, 6)
    top = y + SIDE // 2 - 9 * len(lines)
    draw.rectangle((x + 12, top - 8, x + SIDE - 12, top + 18 * len(lines) + 6), EMPTY)
    for number, line in enumerate(lines):
        draw.text((x + SIDE / 2, top + 18 * number), line, INK, lettering(NOTE).font, anchor="ma")


def _marks(draw: ImageDraw.ImageDraw, at: tuple[int, int], findings: Sequence[Finding]) -> None:
    """The kinds of what was found, one above the other from the upper edge down."""
    kinds = list({finding.kind: finding.severity for finding in reversed(findings)}.items())[::-1]
    more = len(kinds) - MARKS
    labels = [(kind, COLOURS[severity]) for kind, severity in kinds[:MARKS]]
    for number, (text, colour) in enumerate([*labels, (f"{more} more", FAINT)] if more > 0 else labels):
        text = lettering(MARK).cut(text, SIDE - 24)
        x, y = at[0] + 6, at[1] + 6 + 26 * number
        draw.rounded_rectangle((x, y, x + lettering(MARK).width(text) + 16, y + 22), 4, colour, PAPER)
        draw.text((x + 8, y + 11), text, PAPER, lettering(MARK).font, anchor="lm")


def _sizes(card: Card) -> str:
    if card.picture is None:
        return "left out"
    size = f"{card.picture.width}x{card.picture.height}"
    return f"{size}, trained at {card.target[0]}x{card.target[1]}" if card.target else size


def _told(card: Card) -> str:
    """What was found, the gravest first, without the folder that other pictures share with this one."""
    told = " ".join(dict.fromkeys(finding.message for finding in card.findings))
    return told.replace(f"{card.path.parent}/", "").replace(f"{card.path.parent}\\", "")
