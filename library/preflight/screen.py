"""What a terminal can show, and text laid out for it."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TextIO

from library.core.terminal import harmless, has_colours

NARROWEST, WIDEST = 64, 120

COLOURS = {"bold": "1", "dim": "2", "error": "1;31", "warning": "33", "notice": "36", "good": "32"}

EIGHTHS = "▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"
LEVELS_IN_ASCII = "_.-=^"


@dataclass(frozen=True)
class Screen:
    """Where text is shown."""

    width: int = 80
    colour: bool = False
    blocks: bool = True
    """Whether its encoding has more than ASCII."""

    def painted(self, text: str, colour: str) -> str:
        """The text in one of COLOURS, where there are colours."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self.colour and text else text

    def bar(self, share: float, width: int) -> str:
        """A bar of that share of the width, with spaces up to the width; something of it is always seen."""
        if not self.blocks:
            return ("#" * max(1, round(share * width))).ljust(width)
        eighths = max(1, round(share * width * 8))
        whole, rest = divmod(eighths, 8)
        return (EIGHTHS[-1] * whole + (EIGHTHS[rest - 1] if rest else "")).ljust(width)

    def curve(self, values: Sequence[float], width: int) -> str:
        """A line of that many signs at most, each as high as the value at its place."""
        levels = LEVELS if self.blocks else LEVELS_IN_ASCII
        highest = max(values, default=0.0)
        if highest <= 0:
            return ""
        count = min(width, len(values))
        chosen = [values[place * (len(values) - 1) // max(1, count - 1)] for place in range(count)]
        return "".join(levels[min(len(levels) - 1, int(value / highest * len(levels)))] for value in chosen)

    def cut(self, text: str, width: int) -> str:
        """Text of others made harmless and no wider than that; of what is longer the end stays, which tells files apart."""
        text = harmless(text).replace("\n", "\\n").replace("\t", " ")
        if columns(text) <= width:
            return text
        dots = "…" if self.blocks else "..."
        while text and columns(text) > width - len(dots):
            text = text[1:]
        return dots + text

    def paragraph(self, text: str, indent: int) -> list[str]:
        """The text in lines, each indented."""
        space = " " * indent
        return wrap(
            harmless(text), self.width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False
        )  # a word that is too long, a path say, is broken

    def listed(self, names: Sequence[str], indent: int) -> list[str]:
        """Names side by side, each whole on one line if it fits at all."""
        lines = [""]
        for place, name in enumerate(names):
            name = self.cut(name, self.width - indent - 1) + ("," if place < len(names) - 1 else "")
            longer = f"{lines[-1]} {name}" if lines[-1] else name
            lines = [*lines[:-1], longer] if columns(longer) <= self.width - indent else [*lines, name]
        return [" " * indent + self.painted(line, "dim") for line in lines if line]


def screen_of(stream: TextIO) -> Screen:
    """What the stream can show."""
    width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size().columns))
    return Screen(width, has_colours(stream), _has_blocks(stream))


def columns(text: str) -> int:
    """Columns of a terminal that the text takes: two for each character of East Asia, none for marks above others."""
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def padded(text: str, width: int) -> str:
    """The text with spaces up to so many columns."""
    return text + " " * max(0, width - columns(text))


def _has_blocks(stream: TextIO) -> bool:
    try:
        (LEVELS + EIGHTHS + "…×").encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
