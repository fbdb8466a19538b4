"""Edits of a caption's line as a list of tags. What `line_edits` says of edits holds for these as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from library.data.captions.line_edits import Origin
from library.data.captions.pipeline import mentions
from library.data.captions.tags import TagMatcher, over_tags, split_tags, tag_key, with_spaces, without_repeats


@dataclass(frozen=True)
class TriggerFirst:
    """The trigger as the first tag, once. A line that only mentions it, as sentences do, stays as it is."""

    trigger: str

    def __call__(self, line: str, origin: Origin) -> str:
        wanted = split_tags(self.trigger, origin.separator)
        keys = {tag_key(tag) for tag in wanted}

        def change(tags: list[str]) -> list[str]:
            present = {tag_key(tag) for tag in tags}
            if any(tag_key(tag) not in present and mentions(line, tag) for tag in wanted):
                return tags
            return [*wanted, *(tag for tag in tags if tag_key(tag) not in keys)]

        return over_tags(line, origin.separator, change)


@dataclass(frozen=True)
class AddTags:
    """Tags that the line lacks, in the order given.

    Args:
        after: with `where` "after", the tag after which they stand; lines without it stay as they are.
    """

    tags: tuple[str, ...]
    where: Literal["front", "back", "after"] = "back"
    after: str = ""

    def __call__(self, line: str, origin: Origin) -> str:
        def change(tags: list[str]) -> list[str]:
            keys = [tag_key(tag) for tag in tags]
            new = [tag for tag in without_repeats(self.tags) if tag_key(tag) not in keys]
            if self.where == "front":
                return [*new, *tags]
            if self.where == "back":
                return [*tags, *new]
            if tag_key(self.after) not in keys:
                return tags
            at = keys.index(tag_key(self.after)) + 1
            return [*tags[:at], *new, *tags[at:]]

        return over_tags(line, origin.separator, change)


@dataclass(frozen=True)
class RemoveTags:
    """Whole tags away; `*` in them stands for any text."""

    tags: tuple[str, ...]

    @cached_property
    def _removed(self) -> TagMatcher:
        return TagMatcher(self.tags)

    def __call__(self, line: str, origin: Origin) -> str:
        return over_tags(line, origin.separator, lambda tags: [tag for tag in tags if not self._removed(tag)])


@dataclass(frozen=True)
class ReplaceTag:
    """One whole tag by others, or by none, at its place; those that are there already are not written twice."""

    old: str
    new: tuple[str, ...]

    @cached_property
    def _replaced(self) -> TagMatcher:
        return TagMatcher([self.old])

    def __call__(self, line: str, origin: Origin) -> str:
        keys = {tag_key(tag) for tag in self.new}

        def change(tags: list[str]) -> list[str]:
            if not any(self._replaced(tag) for tag in tags):
                return tags
            changed: list[str] = []
            seen: set[str] = set()
            for tag in tags:
                for each in self.new if self._replaced(tag) else (tag,):
                    if tag_key(each) not in seen or tag_key(each) not in keys:
                        changed.append(each)
                    seen.add(tag_key(each))
            return changed

        return over_tags(line, origin.separator, change)


@dataclass(frozen=True)
class TagsFirst:
    """These tags, where the line has them, in this order at its front."""

    tags: tuple[str, ...]

    def __call__(self, line: str, origin: Origin) -> str:
        ranks = {tag_key(tag): -number for number, tag in enumerate(reversed(self.tags), start=1)}
        return over_tags(line, origin.separator, lambda tags: sorted(tags, key=lambda tag: ranks.get(tag_key(tag), 0)))


@dataclass(frozen=True)
class SortTags:
    """Tags by the alphabet, or the most frequent of all captions first."""

    by: Literal["alphabet", "frequency"]
    counts: Counter[str] = field(default_factory=Counter)
    """Captions that have each tag, by its key; filled in when it is this edit's turn."""

    def __call__(self, line: str, origin: Origin) -> str:
        if self.by == "alphabet":
            return over_tags(line, origin.separator, lambda tags: sorted(tags, key=tag_key))
        return over_tags(line, origin.separator, lambda tags: sorted(tags, key=lambda tag: -self.counts[tag_key(tag)]))


@dataclass(frozen=True)
class Dedupe:
    """Each tag once, at its first place and in its first spelling."""

    def __call__(self, line: str, origin: Origin) -> str:
        return over_tags(line, origin.separator, without_repeats)


@dataclass(frozen=True)
class UnderscoresToSpaces:
    """long_hair becomes long hair; faces (^_^) and words such as score_9 stay."""

    def __call__(self, line: str, origin: Origin) -> str:
        return over_tags(line, origin.separator, lambda tags: [with_spaces(tag) for tag in tags])


@dataclass(frozen=True)
class MostTags:
    """No more than the first `count` tags."""

    count: int

    def __call__(self, line: str, origin: Origin) -> str:
        return over_tags(line, origin.separator, lambda tags: tags[: self.count])
