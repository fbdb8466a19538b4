"""Words on pictures, in the one scalable font that Pillow brings."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import cache

from PIL import ImageFont

ABSENT = "\uffff"
"""No font has this sign: it is drawn as the box that stands for all that are missing."""

DOTS = "..."


@dataclass(frozen=True)
class Lettering:
    """A size of the font. Widths are in pixels."""

    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    _drawable: dict[str, bool] = field(default_factory=dict)

    def width(self, text: str) -> float:
        """Of one line."""
        return self.font.getlength(text)

    def legible(self, text: str) -> str:
        """The text with signs that the font lacks replaced: accented letters by the letter, others by their escape."""
        return "".join(sign if self._has(sign) else self._instead(sign) for sign in unicodedata.normalize("NFC", text))

    def cut(self, text: str, width: int) -> str:
        """Legible, on one line, no wider than that; both ends stay, since files often differ in their last signs alone."""
        text = self.legible(" ".join(text.split()))
        if self.width(text) <= width:
            return text
        front, back = text[: len(text) // 2], text[len(text) // 2 :]
        while (front or back) and self.width(front + DOTS + back) > width:
            front, back = (front[:-1], back) if len(front) > len(back) else (front, back[1:])
        return front + DOTS + back

    def lines(self, text: str, width: int, most: int) -> list[str]:
        """Legible, broken between words into lines of that width; what does not fit is left out at the end."""
        lines: list[str] = []
        words = self.legible(text).split()
        while words and len(lines) < most:
            line = words.pop(0)
            while words and self.width(f"{line} {words[0]}") <= width:
                line += f" {words.pop(0)}"
            lines.append(line)
        if words:
            lines[-1] += f" {' '.join(words)}"
        return [self._ended(line, width) for line in lines]

    def _ended(self, line: str, width: int) -> str:
        if self.width(line) <= width:
            return line
        while line and self.width(line + DOTS) > width:
            line = line[:-1]
        return line.rstrip() + DOTS

    def _has(self, sign: str) -> bool:
        if sign not in self._drawable:
            self._drawable[sign] = " " <= sign <= "~" or (
                sign.isprintable() and not unicodedata.combining(sign) and self._drawn(sign) != self._drawn(ABSENT)
            )
        return self._drawable[sign]

    def _drawn(self, sign: str) -> tuple[tuple[int, int], bytes]:
        mask = self.font.getmask(sign)
        return mask.size, bytes(mask)

    def _instead(self, sign: str) -> str:
        letter = unicodedata.normalize("NFKD", sign)[0]
        return letter if letter != sign and self._has(letter) else sign.encode("unicode_escape").decode("ascii")


@cache
def lettering(size: int) -> Lettering:
    """The font at that height in pixels."""
    return Lettering(ImageFont.load_default(size))
