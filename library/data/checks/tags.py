"""Findings about captions taken together: what all of them have in common cannot be told from the trigger word."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from library.config.dataset import Dataset, Subset
from library.data.captions.pipeline import mentions
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
    """Tags of every caption so far, as they are compared and as they are written, in the first caption's order."""
    start: str = ""
    """The first tag, where all captions have the same, as it is compared."""
    bare: array[int] = field(default_factory=lambda: array("Q"))
    """Places of the pictures whose captions say nothing but the trigger."""

    def add(self, caption: str, place: int, subset: Subset) -> None:
        """One more caption that is not empty."""
        start = _compared(caption.split(subset.captions.caption_separator)[0])
        self.captions += 1
        self.folders.add(subset.image_dir or subset.metadata_file)
        if self.captions == 1:
            self.first = caption
            self.common = tags_in_every_line(caption, subset)
            self.start = start
        elif caption != self.first:
            self.all_alike = False
            self.start = start if start == self.start else ""
            if self.common:
                tags = tags_in_every_line(caption, subset)
                self.common = {tag: written for tag, written in self.common.items() if tag in tags}
        if subset.trigger_word and says_nothing_else(caption, subset):
            self.bare.append(place)


def about_tags(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Tags in every caption that goes with a trigger word, captions that are all the same, and such as say nothing else.

    A tag counts that is neither the trigger word nor the class word, and that `keep_tokens` does not hold in front. Captions
    without a trigger word in the settings are taken folder by folder, and the tag that they all begin with is taken for it.
    Empty captions, regularisation pictures and those whose output is kept do not count. Pictures are gone through once.
    """
    concepts: dict[str | Path | None, Concept] = {}
    for subset, row in rows_of_subsets(pictures, datasets):
        caption = "" if subset.is_reg or subset.keeps_output else pictures.caption(row)
        if caption:
            key = subset.trigger_word.lower() or subset.image_dir or subset.metadata_file
            concepts.setdefault(key, Concept(subset)).add(caption, row, subset)
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
    common, word, settings = dict(concept.common), concept.subset.trigger_word, concept.subset.captions
    trigger = f"the trigger word '{word}'"
    texts = filter(None, (settings.caption_prefix, concept.first, settings.caption_suffix))
    if word and not any(mentions(text, word) for text in texts):
        return  # it is missing, which is told of each caption
    if not word:
        if not concept.start:
            return  # what calls the concept is not known
        common.pop(concept.start, None)
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
    """Tags, as they are compared and as they are written, that the caption has whichever of its lines is used.

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
    return _words(caption) <= _words(subset.trigger_word) | _words(subset.class_word) | ARTICLES


def _tags_that_move(line: str, subset: Subset) -> dict[str, str]:
    """Tags of a line that are not kept in front, compared and as written, without trigger and class word."""
    settings = subset.captions
    if settings.enable_wildcard:
        line = re.sub(r"\{[^{}]*\}", "{}", line)
    mark, kept = settings.keep_tokens_separator, settings.keep_tokens
    if mark and mark in line:
        line, kept = line.split(mark)[1], 0
    tags = [tag.strip() for tag in line.split(settings.caption_separator) if tag.strip()]
    own = _words(subset.trigger_word) | _words(subset.class_word) | ARTICLES
    return {
        _compared(tag): tag
        for tag in tags[kept:]
        if not _words(tag) <= own
        and "{}" not in tag
        and not (subset.trigger_word and mentions(tag, subset.trigger_word))
    }


def _compared(tag: str) -> str:
    return " ".join(tag.lower().split())


def _words(text: str) -> set[str]:
    """Words and emoji; ASCII's other signs say nothing."""
    return set(re.findall(r"\w+|[^\w\s!-~]+", text.lower()))
