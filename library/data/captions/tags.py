"""Tags of a caption: taking a line apart, putting it together, and telling whether two tags are the same.

Tags are compared without regard to case, spaces and underscores: "Long_Hair" is "long hair".
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

FACE = re.compile(r"\W*\w?\W*_\W*\w?\W*")
"""A face such as ^_^, o_o or (o)_(o): no more than one letter on either side of its mouth."""

LONGEST_FACE = 12

SPELT_WITH_UNDERSCORE = re.compile(
    r"score_\d+(_up)?|source_(anime|cartoon|furry|pony)|rating_(safe|sensitive|questionable|explicit)", re.IGNORECASE
)
"""Words of quality and source that models were trained on with their underscore."""


def split_tags(line: str, separator: str) -> list[str]:
    """The tags of a line, stripped; empty ones are left out.

    Separators within braces are part of the tag: "{red hat, cap|helmet}" is one wildcard.
    """
    if "{" in line:
        return [tag for part in _outside_braces(separator).split(line) if (tag := part.strip())]
    return [tag for part in line.split(separator) if (tag := part.strip())]


def join_tags(tags: Iterable[str], separator: str) -> str:
    """Tags as one line, with a space after each separator."""
    return (separator.strip() + " " if separator.strip() else separator).join(tags)


def over_tags(line: str, separator: str, change: Callable[[list[str]], list[str]]) -> str:
    """The line with its tags changed; one whose tags stay as they are keeps its own spacing."""
    tags = split_tags(line, separator)
    changed = change(tags)
    return line if changed == tags else join_tags(changed, separator)


@lru_cache(maxsize=1 << 16)
def tag_key(tag: str) -> str:
    """What all spellings of a tag have in common."""
    folded = unicodedata.normalize("NFC", tag).lower()
    return " ".join(folded.replace("_", " ").split()) or folded


class TagMatcher:
    """Tells whether a tag is one of those that are wanted.

    Args:
        wanted: tags; in each `*` stands for any text, as in "*background*".
    """

    def __init__(self, wanted: Sequence[str]) -> None:
        self._exact = frozenset(tag_key(tag) for tag in wanted if "*" not in tag)
        loose = [".*".join(re.escape(part) for part in tag_key(tag).split("*")) for tag in wanted if "*" in tag]
        self._loose = re.compile("|".join(loose), re.DOTALL) if loose else None

    def __call__(self, tag: str) -> bool:
        key = tag_key(tag)
        return key in self._exact or (self._loose is not None and self._loose.fullmatch(key) is not None)


def without_repeats(tags: Iterable[str]) -> list[str]:
    """The tags, each at its first place and in its first spelling."""
    first: dict[str, str] = {}
    for tag in tags:
        first.setdefault(tag_key(tag), tag)
    return list(first.values())


def tags_of(caption: str, separator: str) -> list[str]:
    """The different tags of a caption, over all its lines."""
    return without_repeats(tag for line in caption.splitlines() for tag in split_tags(line, separator))


def count_tags(captions: Iterable[str], separator: str) -> Counter[str]:
    """In how many captions each tag occurs, by its key."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update({tag_key(tag) for line in caption.splitlines() for tag in split_tags(line, separator)})
    return counts


@lru_cache(maxsize=1 << 16)
def with_spaces(tag: str) -> str:
    """Underscores as spaces, but in faces and in words that are spelt with one."""
    if "_" not in tag:
        return tag
    return re.sub(r"\S+", lambda word: word[0] if _keeps_underscore(word[0]) else word[0].replace("_", " "), tag)


def _keeps_underscore(word: str) -> bool:
    return (len(word) <= LONGEST_FACE and FACE.fullmatch(word) is not None) or SPELT_WITH_UNDERSCORE.fullmatch(
        word
    ) is not None


@lru_cache(maxsize=16)
def _outside_braces(separator: str) -> re.Pattern[str]:
    """The separator where no closing brace follows before an opening one."""
    return re.compile(re.escape(separator) + r"(?![^{}]*\})")
