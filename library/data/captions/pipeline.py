"""The caption pipeline: from a caption file to the words that the model reads, as pure functions."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from library.config.schema.data import CaptionConfig

T = TypeVar("T")

MOST_VARIANTS = 64
"""A caption of which more can be made is not worth caching: each takes as much memory as a small picture's latents."""

MOST_PATHS = 1024
"""Ways through the decisions that are tried to find them."""


@dataclass(frozen=True)
class Moment:
    """When a caption is used."""

    epoch: int
    """From 0."""
    step: int
    """From 0."""
    max_train_steps: int


class Decisions(Protocol):
    """What the pipeline leaves open; drawn in training, fixed in validation, gone through one by one for caching."""

    def happens(self, probability: float) -> bool: ...

    def one_of(self, options: Sequence[T]) -> T: ...

    def shuffled(self, tags: list[str]) -> list[str]: ...

    def empties_epoch(self, every_n_epochs: int) -> bool: ...

    def tags_in_use(self, count: int, settings: CaptionConfig) -> int: ...


def process_caption(caption: str, settings: CaptionConfig, rng: random.Random, moment: Moment) -> str:
    """The caption to train with: every draw from `rng`, epoch and warm-up from `moment`."""
    return compose(caption, settings, Drawn(rng, moment))


def plain_caption(caption: str, settings: CaptionConfig) -> str:
    """The caption without chance: first line, first of each wildcard's options, no shuffle, no dropout, all tags."""
    return compose(caption, settings, Fixed())


def compose(caption: str, settings: CaptionConfig, decide: Decisions) -> str:
    """The pipeline itself, in sd-scripts' order.

    1 prefix and suffix. 2 dropout of the whole caption. 3 wildcards, or the first line. 4 tags and what stays in front.
    5 tag warm-up. 6 shuffle. 7 tag dropout. 8 join. 9 secondary separator.
    """
    caption = surrounded(caption, settings)
    if decide.happens(settings.caption_dropout_rate) or decide.empties_epoch(settings.caption_dropout_every_n_epochs):
        return ""
    lines = caption.split("\n")
    caption = _wildcards(decide.one_of(lines), decide) if settings.enable_wildcard else lines[0]
    if _rearranges(caption, settings):
        front, middle, end = split(caption, settings)
        middle = middle[: decide.tags_in_use(len(middle), settings)]
        middle = decide.shuffled(middle) if settings.shuffle_caption else middle
        middle = [tag for tag in middle if not decide.happens(settings.caption_tag_dropout_rate)]
        caption = ", ".join([*front, *middle, *end])
    if settings.secondary_separator:
        caption = caption.replace(settings.secondary_separator, settings.caption_separator)
    return caption


def surrounded(caption: str, settings: CaptionConfig) -> str:
    """Each line of the caption with prefix and suffix."""
    prefix, suffix = settings.caption_prefix, settings.caption_suffix
    if not prefix and not suffix:
        return caption
    return "\n".join(" ".join(filter(None, (prefix, line, suffix))) for line in caption.split("\n"))


def split(line: str, settings: CaptionConfig) -> tuple[list[str], list[str], list[str]]:
    """Tags that stay in front, tags that move, tags that stay at the end."""
    mark = settings.keep_tokens_separator
    if mark and mark in line:
        front, _, rest = line.partition(mark)
        middle, _, end = rest.partition(mark)
        return _tags(front, settings), _tags(middle, settings), _tags(end, settings)
    tags = _tags(line, settings)
    return tags[: settings.keep_tokens], tags[settings.keep_tokens :], []


def variants(caption: str, settings: CaptionConfig) -> list[str] | None:
    """Every caption that the pipeline can make of this one, sorted; None where they are too many to list."""
    found: set[str] = set()
    path: list[tuple[int, int]] | None = []
    for _ in range(MOST_PATHS):
        assert path is not None
        every = Enumerated([choice for choice, _ in path])
        found.add(compose(caption, settings, every))
        path = _next_path(every.taken)
        if path is None or len(found) > MOST_VARIANTS:
            break
    return sorted(found) if path is None and len(found) <= MOST_VARIANTS else None


def without_trigger(caption: str, trigger: str, class_word: str, separator: str = ",") -> str:
    """The caption with the trigger replaced by what it is an example of; unchanged where the trigger is not in it.

    Whole words only, whatever their case. "alexander, a man in red" with trigger "alexander" and class word "man" gives
    "man, a man in red"; with no class word "a man in red".
    """
    if not trigger or not mentions(caption, trigger):
        return caption
    replaced = whole_word(trigger).sub(lambda _: class_word, caption)
    tags = [" ".join(tag.split()) for tag in replaced.split(separator)]
    if class_word:
        repeated = re.compile(rf"(?<!\w)({re.escape(class_word)})(\s+{re.escape(class_word)})+(?!\w)", re.IGNORECASE)
        tags = [repeated.sub(class_word, tag) for tag in tags]
    kept: list[str] = []
    for tag in tags:
        repeats_class = tag.lower() == class_word.lower() and tag.lower() in (other.lower() for other in kept)
        if re.search(r"\w", re.sub(r":\s*[\d.]+", "", tag)) and not repeats_class:
            kept.append(tag)
    return f"{separator} ".join(kept)


def mentions(caption: str, trigger: str) -> bool:
    """Whether the trigger stands in the caption as a whole word."""
    return bool(whole_word(trigger).search(caption))


class Drawn:
    """Decisions drawn at random."""

    def __init__(self, rng: random.Random, moment: Moment) -> None:
        self.rng = rng
        self.moment = moment

    def happens(self, probability: float) -> bool:
        return self.rng.random() < probability

    def one_of(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def shuffled(self, tags: list[str]) -> list[str]:
        return self.rng.sample(tags, len(tags))

    def empties_epoch(self, every_n_epochs: int) -> bool:
        return every_n_epochs > 0 and (self.moment.epoch + 1) % every_n_epochs == 0

    def tags_in_use(self, count: int, settings: CaptionConfig) -> int:
        warmup = _warmup_steps(settings, self.moment.max_train_steps)
        if self.moment.step >= warmup:
            return count
        shortest = settings.token_warmup_min
        return max(0, math.floor(self.moment.step * (count - shortest) / warmup) + shortest)


class Fixed:
    """Decisions for validation: nothing happens, the first option is taken."""

    def happens(self, probability: float) -> bool:
        return probability >= 1

    def one_of(self, options: Sequence[T]) -> T:
        return options[0]

    def shuffled(self, tags: list[str]) -> list[str]:
        return tags

    def empties_epoch(self, every_n_epochs: int) -> bool:
        return False

    def tags_in_use(self, count: int, settings: CaptionConfig) -> int:
        return count


class Enumerated:
    """Decisions that follow a path of choices and then take the first option, noting how many options there were."""

    def __init__(self, path: Sequence[int]) -> None:
        self.path = path
        self.taken: list[tuple[int, int]] = []

    def _choose(self, options: int) -> int:
        place = len(self.taken)
        choice = self.path[place] if place < len(self.path) else 0
        self.taken.append((choice, options))
        return choice

    def happens(self, probability: float) -> bool:
        return probability >= 1 if probability <= 0 or probability >= 1 else bool(self._choose(2))

    def one_of(self, options: Sequence[T]) -> T:
        return options[self._choose(len(options))]

    def shuffled(self, tags: list[str]) -> list[str]:
        pool = list(tags)
        return [pool.pop(self._choose(len(pool))) for _ in tags]

    def empties_epoch(self, every_n_epochs: int) -> bool:
        return every_n_epochs == 1 or (every_n_epochs > 1 and bool(self._choose(2)))

    def tags_in_use(self, count: int, settings: CaptionConfig) -> int:
        if settings.token_warmup_step <= 0:
            return count
        lowest, highest = sorted((count, settings.token_warmup_min))
        return lowest + self._choose(highest - lowest + 1)


def _next_path(taken: list[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The choices after these in counting order, None after the last."""
    while taken:
        choice, options = taken.pop()
        if choice + 1 < options:
            return [*taken, (choice + 1, options)]
    return None


def _wildcards(caption: str, decide: Decisions) -> str:
    """`{red|blue}` becomes one of its options; `{{` and `}}` stand for braces."""

    def chosen(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return decide.one_of(match[1].split("|"))

    return re.sub(r"\{\{|\}\}|\{([^{}]+)\}", chosen, caption)


def _rearranges(caption: str, settings: CaptionConfig) -> bool:
    """Whether tags are taken apart at all; a caption that is not touched keeps its own spacing."""
    marked = bool(settings.keep_tokens_separator) and str(settings.keep_tokens_separator) in caption
    return marked or settings.shuffle_caption or settings.token_warmup_step > 0 or settings.caption_tag_dropout_rate > 0


def _tags(text: str, settings: CaptionConfig) -> list[str]:
    return [tag.strip() for tag in text.split(settings.caption_separator) if tag.strip()]


def _warmup_steps(settings: CaptionConfig, max_train_steps: int) -> int:
    steps = settings.token_warmup_step
    return math.floor(steps * max_train_steps) if steps < 1 else int(steps)


def whole_word(text: str) -> re.Pattern[str]:
    """Finds the text where no letter or digit touches it, whatever its case."""
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)
