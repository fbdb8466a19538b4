"""Findings about captions taken together: what all of them have in common cannot be told from the trigger word."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

from library.config.dataset import Dataset, Subset
from library.data.captions.pipeline import mentions, split, surrounded
from library.data.captions.tags import tag_key
from library.data.checks.findings import Finding
from library.data.index.pictures import Pictures, rows_of_subsets

FEWEST_CAPTIONS = 5
"""Fewer may well have a tag in common by chance."""

SHOWN_TAGS = 8

SHOWN_LETTERS = 80

ARTICLES = frozenset({"a", "an", "the"})


@dataclass
class Concept:
    """What the captions with one trigger word have in common; without one, those of a folder."""

    subset: Subset
    folders: set[Path | None] = field(default_factory=set)
    captions: int = 0
    first: str = ""
    all_alike: bool = True
    common: dict[str, str] = field(default_factory=dict)
    """Tags of every caption so far, their `tag_key` and as they are written, in the first caption's order."""
    start: str = ""
    """The first tag, where all captions have the same, as the first caption has it."""
    bare: array[int] = field(default_factory=lambda: array("Q"))
    """Places of the pictures whose captions say nothing but the trigger."""

    def add(self, caption: str, place: int, subset: Subset) -> None:
        """One more caption that is not empty, with prefix and suffix."""
        self.captions += 1
        self.folders.add(subset.image_dir or subset.metadata_file)
        if self.captions == 1:
            self.first = caption
            self.common = tags_in_every_line(caption, subset)
            self.start = _first_tag(caption, subset)
        elif caption != self.first:
            self.all_alike = False
            if self.start and tag_key(_first_tag(caption, subset)) != tag_key(self.start):
                self.start = ""
            if self.common:
                tags = tags_in_every_line(caption, subset)
                self.common = {tag: written for tag, written in self.common.items() if tag in tags}
        if subset.trigger_word and says_nothing_else(caption, subset):
            self.bare.append(place)


def about_tags(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Tags in every caption that goes with a trigger word, captions that are all the same, and such as say nothing else.

    Captions are taken as they are trained, with prefix and suffix. A tag counts that is neither the trigger word nor the class
    word, and that `keep_tokens` does not hold in front. Captions without a trigger word in the settings are taken folder by
    folder, and the tag that they all begin with is taken for it. Empty captions, regularisation pictures and those whose output
    is kept do not count. Pictures are gone through once.
    """
    concepts: dict[str | Path | None, Concept] = {}
    for subset, row in rows_of_subsets(pictures, datasets):
        caption = pictures.caption(row) if subset.teaches else ""
        if caption:
            key = subset.trigger_word.lower() or subset.image_dir or subset.metadata_file
            concepts.setdefault(key, Concept(subset)).add(surrounded(caption, subset.captions), row, subset)
    for concept in concepts.values():
        if concept.captions >= FEWEST_CAPTIONS:
            yield from _about_concept(concept, pictures)


def _about_concept(concept: Concept, pictures: Pictures) -> Iterator[Finding]:
    path = str(next(iter(concept.folders)) or "") if len(concept.folders) == 1 else ""
    if concept.all_alike or len(concept.bare) == concept.captions:
        text = concept.first if len(concept.first) <= SHOWN_LETTERS else f"{concept.first[:SHOWN_LETTERS]}..."
        message = f"all captions are the same: '{text}'."
        if concept.bare:
            message = f"no caption says more than the trigger word, '{text}'."
        advice = (
            "All that the pictures have in common goes with the trigger word then, and what varies is left to chance. Name what "
            "should stay changeable: clothes, pose, place."
        )
        yield Finding("same caption", "notice", path, message, advice)
        return
    yield from _about_common_tags(concept, path)
    for place in concept.bare:
        picture = pictures[place]
        where, shown = str(picture.caption_path or picture.path), str(picture.path)
        message = "the caption says nothing but the trigger word."
        advice = "Name what should stay changeable: clothes, pose, place."
        yield Finding("bare caption", "notice", where, message, advice, shown)


def _about_common_tags(concept: Concept, path: str) -> Iterator[Finding]:
    common, word = dict(concept.common), concept.subset.trigger_word
    trigger = f"the trigger word '{word}'"
    if word and not mentions(concept.first, word):
        return  # it is missing, which is told of each caption
    if not word:
        if not concept.start:
            return  # what calls the concept is not known
        common.pop(tag_key(concept.start), None)
        trigger = f"'{concept.start}', which comes first"
    if not common:
        return
    shown = ", ".join(f"'{written}'" for written in list(common.values())[:SHOWN_TAGS])
    more = f" and {len(common) - SHOWN_TAGS} more" if len(common) > SHOWN_TAGS else ""
    message = f"{shown}{more}: in every caption."
    advice = (
        f"A LoRA cannot tell that from {trigger}. Leave it out of the captions if it belongs to the subject; if it should stay "
        "changeable, add pictures without it."
    )
    yield Finding("tag in every caption", "notice", path, message, advice)


def tags_in_every_line(caption: str, subset: Subset) -> dict[str, str]:
    """Tags, their `tag_key` and as they are written, that the caption has whichever of its lines is used.

    The trigger word, the class word, what `keep_tokens` holds, and tags with wildcards are left out.
    """
    lines = caption.split("\n") if subset.captions.enable_wildcard else caption.split("\n")[:1]
    found = _tags_that_move(lines[0], subset)
    for line in lines[1:]:
        others = _tags_that_move(line, subset)
        found = {tag: written for tag, written in found.items() if tag in others}
    return found


def says_nothing_else(caption: str, subset: Subset) -> bool:
    """Whether all the words of a caption are those of its trigger and class words."""
    own = subset.trigger_word + subset.class_word
    if len(caption) > 2 * len(own) + SHOWN_LETTERS:
        return False
    return _words(caption) <= _own_words(subset.trigger_word, subset.class_word)


def _tags_that_move(line: str, subset: Subset) -> dict[str, str]:
    """Tags of a line that are not kept at its ends, their `tag_key` and as written, without trigger and class word."""
    if subset.captions.enable_wildcard:
        line = re.sub(r"\{[^{}]*\}", "{}", line)
    _, tags, _ = split(line, subset.captions)
    own = _own_words(subset.trigger_word, subset.class_word)
    return {
        tag_key(tag): tag
        for tag in tags
        if not _words(tag) <= own
        and "{}" not in tag
        and not (subset.trigger_word and mentions(tag, subset.trigger_word))
    }


def _first_tag(caption: str, subset: Subset) -> str:
    return next(chain(*split(caption.split("\n", 1)[0], subset.captions)), "")


@cache
def _own_words(trigger_word: str, class_word: str) -> Set[str]:
    return _words(trigger_word) | _words(class_word) | ARTICLES


def _words(text: str) -> set[str]:
    """Words and emoji; ASCII's other signs say nothing."""
    return set(re.findall(r"\w+|[^\w\s!-~]+", text.lower()))
