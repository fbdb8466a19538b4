"""What captions hold: how often each tag occurs, and how long captions are."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from library.data.captions.files import clean_lines
from library.data.captions.pipeline import mentions
from library.data.captions.tags import split_tags, tag_key

CHUNK = 75
"""Tokens of a caption that CLIP reads at once."""


@dataclass(frozen=True)
class TagCount:
    """One tag, under its most frequent spelling."""

    tag: str
    captions: int
    """In how many it occurs."""
    spellings: dict[str, int]
    """How it is written, and how often, the most frequent first."""


@dataclass(frozen=True)
class Spread:
    """Of a number that each caption has."""

    least: int
    median: float
    most: int


@dataclass(frozen=True)
class CaptionStatistics:
    """Counts over N captions that hold something; a tag counts once a caption, over all its lines."""

    captions: int
    empty: int
    missing: int
    """Pictures without a caption file."""
    tags: list[TagCount]
    """The most frequent first."""
    tags_each: Spread
    tokens_each: Spread
    """Of the longest line."""
    too_long: list[str]
    """Labels of those with more than CHUNK tokens."""
    without_trigger: list[str] | None
    """None where no trigger is known."""

    def in_every(self) -> list[str]:
        """Tags that no caption lacks."""
        return [each.tag for each in self.tags if each.captions == self.captions] if self.captions > 1 else []

    def once(self) -> list[str]:
        """Tags of a single caption."""
        return [each.tag for each in self.tags if each.captions == 1] if self.captions > 1 else []

    def as_table(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "captions": self.captions,
            "empty": self.empty,
            "missing": self.missing,
            "tags_each": vars(self.tags_each),
            "tokens_each": vars(self.tokens_each),
            "too_long": self.too_long,
            "without_trigger": self.without_trigger,
            "in_every_caption": self.in_every(),
            "in_one_caption": self.once(),
            "tags": [
                {"tag": each.tag, "captions": each.captions, "share": each.captions / self.captions}
                | ({"spellings": each.spellings} if len(each.spellings) > 1 else {})
                for each in self.tags
            ],
        }


def count(
    captions: Sequence[tuple[str, str]],
    separator: str,
    count_tokens: Callable[[str], int],
    trigger: str = "",
    missing: int = 0,
) -> CaptionStatistics:
    """Statistics of captions.

    Args:
        captions: label and text of each.
        count_tokens: of one line.
        missing: pictures without a caption file, only to be told.
    """
    held: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    numbers, lengths, too_long, without = [], [], [], []
    empty = 0
    for label, text in captions:
        lines = clean_lines(text).split("\n")
        if not lines[0]:
            empty += 1
            continue
        keys = set()
        for tag in (tag for line in lines for tag in split_tags(line, separator)):
            key = tag_key(tag)
            keys.add(key)
            spellings.setdefault(key, Counter())[tag] += 1
        held.update(keys)
        numbers.append(len(split_tags(lines[0], separator)))
        lengths.append(max(count_tokens(line) for line in lines))
        if lengths[-1] > CHUNK:
            too_long.append(label)
        if trigger and not mentions(text, trigger):
            without.append(label)
    tags = []
    for key, number in sorted(held.items(), key=lambda item: (-item[1], item[0])):
        written = dict(spellings[key].most_common())
        tags.append(TagCount(next(iter(written)), number, written))
    return CaptionStatistics(
        captions=len(numbers),
        empty=empty,
        missing=missing,
        tags=tags,
        tags_each=_spread(numbers),
        tokens_each=_spread(lengths),
        too_long=too_long,
        without_trigger=without if trigger else None,
    )


def _spread(numbers: Sequence[int]) -> Spread:
    return Spread(min(numbers), statistics.median(numbers), max(numbers)) if numbers else Spread(0, 0, 0)
