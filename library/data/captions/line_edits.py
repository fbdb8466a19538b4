"""Edits of a caption's line as text: what stands around it, and words within it.

An edit that finds nothing to do leaves the line as it is, spacing included. Done twice, an edit does no more than once; replacing a text
by one that holds it is the exception.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from library.core.errors import UserError, did_you_mean
from library.data.captions.pipeline import whole_word
from library.data.captions.tags import join_tags, over_tags, split_tags, tag_key

FIELDS = ("trigger", "class", "caption", "folder", "name")
"""What a template may name in braces."""

HERE = "\0"
"""What stands in for a caption where only the text around it counts; no name or word of a command line holds it."""

REPEATS = re.compile(r"\d+_(?=.)")
"""How sd-scripts' folders begin: 10_anna woman."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a line comes from, and what is the same for all of them."""

    name: str = ""
    """Of the picture, without its ending."""
    folder: str = ""
    """Name of the picture's folder."""
    separator: str = ","
    trigger: str = ""
    class_word: str = ""


class Edit(Protocol):
    """A change of one line."""

    def __call__(self, line: str, origin: Origin) -> str:
        """The new line; `line` has neither a line end nor space around it."""
        ...


@dataclass(frozen=True)
class Prefix:
    """Text before the line, with a space between, where it does not begin so already; `annabelle` does not begin with `anna`."""

    text: str

    def __call__(self, line: str, origin: Origin) -> str:
        text = self.text.strip()
        if line.startswith(text) and not (text[-1:].isalnum() and line.removeprefix(text)[:1].isalnum()):
            return line
        return f"{text} {line}".strip()


@dataclass(frozen=True)
class Suffix:
    """Text after the line where it does not end so already; a space between, unless the text begins with a mark such as a comma."""

    text: str

    def __call__(self, line: str, origin: Origin) -> str:
        text = self.text.strip()
        if line.endswith(text) and not (text[:1].isalnum() and line.removesuffix(text)[-1:].isalnum()):
            return line
        gap = "" if re.match(r"[,.;:!?]", text) else " "
        return f"{line}{gap}{text}".strip()


@dataclass(frozen=True)
class Template:
    """A text in which {trigger}, {class}, {caption}, {folder} and {name} are filled in. Empty tags that come of it are dropped.

    Tags of the caption that stand in the text itself are not put in again.

    Raises:
        UserError: it names anything else in braces.
    """

    text: str

    def __post_init__(self) -> None:
        for name in re.findall(r"\{(\w+)\}", self.text):
            if name not in FIELDS:
                known = ", ".join(f"{{{each}}}" for each in FIELDS)
                raise UserError(f"the template names {{{name}}}; it may name {known}.{did_you_mean(name, FIELDS)}")

    def names(self, wanted: str) -> bool:
        """Whether this field is in the text."""
        return f"{{{wanted}}}" in self.text

    def __call__(self, line: str, origin: Origin) -> str:
        before, marker, after = self.text.partition("{caption}")
        before, after = _filled(before, line, origin), _filled(after, line, origin)
        bare = _without_empty(before + after, origin.separator)
        if not marker or not line:
            return bare
        done = line == bare or (
            len(line) >= len(before) + len(after) and line.startswith(before) and line.endswith(after)
        )
        return line if done else _without_empty(before + self._others(line, origin) + after, origin.separator)

    def _others(self, line: str, origin: Origin) -> str:
        """The line without the tags that the text around {caption} has."""
        form = _filled(self.text.replace("{caption}", HERE), "", origin)
        own = {tag_key(tag) for tag in split_tags(form, origin.separator) if HERE not in tag}
        return over_tags(line, origin.separator, lambda tags: [tag for tag in tags if tag_key(tag) not in own])


@dataclass(frozen=True)
class ReplaceText:
    """Words within the line, whatever their case, by others; never a part of a longer word."""

    old: str
    new: str

    def __call__(self, line: str, origin: Origin) -> str:
        return whole_word(self.old).sub(lambda _: self.new, line).strip()


@dataclass(frozen=True)
class ReplaceRegex:
    """What a regular expression finds in the line; the new text may name its groups (`\\1`)."""

    pattern: re.Pattern[str]
    new: str

    def __call__(self, line: str, origin: Origin) -> str:
        return self.pattern.sub(self.new, line).strip()


@dataclass(frozen=True)
class StripEmpty:
    """No empty tags, and between words and after separators one space."""

    def __call__(self, line: str, origin: Origin) -> str:
        return _without_empty(line, origin.separator)


def _filled(text: str, line: str, origin: Origin) -> str:
    values = {
        "trigger": origin.trigger,
        "class": origin.class_word,
        "caption": line,
        "folder": REPEATS.sub("", origin.folder, count=1),
        "name": origin.name,
    }
    return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], text)


def _without_empty(line: str, separator: str) -> str:
    return join_tags((" ".join(tag.split()) for tag in split_tags(line, separator)), separator)
