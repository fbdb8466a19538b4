"""The edits of `dojo dataset caption` on its command line, kept in the order in which they are given."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from library.core.errors import UserError
from library.data.captions.line_edits import Edit, Prefix, ReplaceRegex, ReplaceText, StripEmpty, Suffix, Template
from library.data.captions.tag_edits import (
    AddTags,
    Dedupe,
    MostTags,
    RemoveTags,
    ReplaceTag,
    SortTags,
    TagsFirst,
    TriggerFirst,
    UnderscoresToSpaces,
)
from library.data.captions.tags import split_tags

ORDERS = {"alphabet": SortTags("alphabet"), "frequency": SortTags("frequency")}


@dataclass(frozen=True)
class Words:
    """What edits need beside their own value."""

    separator: str
    trigger: str
    class_word: str

    def tags(self, text: str) -> tuple[str, ...]:
        """Tags in an option's value."""
        return tuple(split_tags(text, self.separator))


@dataclass(frozen=True)
class Option:
    """One edit as an option."""

    metavar: str
    """"" for a flag."""
    help: str
    build: Callable[[str, Words], Edit]


def trigger_first(_: str, words: Words) -> Edit:
    """Raises UserError without a trigger."""
    if not words.tags(words.trigger):
        raise UserError("--trigger_first needs to know the trigger: add --trigger_word WORD.")
    return TriggerFirst(words.trigger)


def template(text: str, words: Words) -> Edit:
    """Raises UserError where the template names what is not known."""
    made = Template(text)
    for field, option, value in (
        ("trigger", "trigger_word", words.trigger),
        ("class", "class_word", words.class_word),
    ):
        if made.names(field) and not value:
            raise UserError(f"--template names {{{field}}}: add --{option} WORD.")
    return made


def replace_regex(text: str, words: Words) -> Edit:
    """Raises UserError for what is no regular expression."""
    first = pair("replace_regex", text)
    old, new = next((sides for sides in all_sides(text) if is_regex(sides[0])), first)
    try:
        pattern = re.compile(old)
        pattern.sub(new, "")
    except (re.error, IndexError) as error:
        raise UserError(f"--replace_regex {text}: is no regular expression with its replacement ({error}).") from error
    return ReplaceRegex(pattern, new)


def sort_tags(text: str, words: Words) -> Edit:
    """Raises UserError for any other order."""
    if text in ORDERS:
        return ORDERS[text]
    raise UserError(f"--sort_tags {text}: 'alphabet' or 'frequency' is expected.")


def max_tags(text: str, words: Words) -> Edit:
    """Raises UserError for what is no number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--max_tags {text}: a whole number above 0 is expected.")
    return MostTags(int(text))


def add_after(text: str, words: Words) -> Edit:
    """Tags after one that is there."""
    after, tags = pair("add_tags_after", text, "hat=red hat, feather")
    return AddTags(words.tags(tags), "after", after)


def replace_tag(text: str, words: Words) -> Edit:
    """One tag by others."""
    old, new = pair("replace_tag", text)
    return ReplaceTag(old, words.tags(new))


def pair(option: str, text: str, example: str = "long_hair=long hair") -> tuple[str, str]:
    """Both sides of "old=new", each stripped; `\\=` is an equals sign of the text.

    Raises:
        UserError: there is nothing before a sign, or no sign.
    """
    found = all_sides(text)
    if not found or not found[0][0]:
        raise UserError(
            f'--{option} {text}: {OPTIONS[option].metavar} is expected, such as "{example}"; a \\= is a sign of the text.'
        )
    return found[0]


def all_sides(text: str) -> list[tuple[str, str]]:
    """What stands before and after each equals sign, but for `\\=`."""
    signs = [(found.start(), found.end()) for found in re.finditer(r"(?<!\\)=", text)]
    return [(plain(text[:start]), plain(text[end:])) for start, end in signs]


def plain(side: str) -> str:
    """As it is meant."""
    return side.replace("\\=", "=").strip()


def is_regex(text: str) -> bool:
    """Whether it is a regular expression, whole."""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


OPTIONS = {
    "trigger_first": Option(
        "", "the trigger word as first tag: added where it is missing, moved where it is not first", trigger_first
    ),
    "prefix": Option("TEXT", "text before every caption", lambda text, _: Prefix(text)),
    "suffix": Option("TEXT", "text after every caption", lambda text, _: Suffix(text)),
    "template": Option(
        "TEXT",
        "a form to fill in: {trigger}, {class}, {caption} (without tags that the form has), {folder} and {name} (of the picture)",
        template,
    ),
    "add_tags": Option("TAGS", "tags at the end, where they are missing", lambda t, words: AddTags(words.tags(t))),
    "add_tags_front": Option("TAGS", "tags at the front", lambda t, words: AddTags(words.tags(t), "front")),
    "add_tags_after": Option("TAG=TAGS", "tags after another one, in captions that have it", add_after),
    "remove_tags": Option(
        "TAGS", 'tags away; "*background*" for all that hold the word', lambda t, words: RemoveTags(words.tags(t))
    ),
    "replace_tag": Option("OLD=NEW", "one whole tag by another, or by several", replace_tag),
    "replace_text": Option(
        "OLD=NEW", "words within captions, whatever their case", lambda t, _: ReplaceText(*pair("replace_text", t))
    ),
    "replace_regex": Option(
        "PATTERN=NEW",
        "what a regular expression finds, in each line; it ends at the first = before which it is whole: (?<=a )b=c",
        replace_regex,
    ),
    "tags_first": Option("TAGS", "these to the front, in this order", lambda t, words: TagsFirst(words.tags(t))),
    "sort_tags": Option("alphabet|frequency", "all tags by the alphabet, or the most frequent first", sort_tags),
    "dedupe": Option("", 'every tag once ("Long_hair" is "long hair")', lambda *_: Dedupe()),
    "underscores_to_spaces": Option(
        "", "long_hair to long hair; ^_^ and score_9 stay", lambda *_: UnderscoresToSpaces()
    ),
    "strip_empty": Option("", "no empty tags, and one space after each separator", lambda *_: StripEmpty()),
    "max_tags": Option("N", "the first N tags", max_tags),
}


class InOrder(argparse.Action):
    """Appends the option's name and value to `edits`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        given = (str(option_string).lstrip("-"), values if isinstance(values, str) else "")
        namespace.edits = [*namespace.edits, given]


def add_edits(parser: argparse.ArgumentParser) -> None:
    """Every edit as an option; `edits` of the namespace becomes their list."""
    group = parser.add_argument_group("edits, done in the order in which they are given")
    for name, option in OPTIONS.items():
        kind: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {"nargs": 0}
        group.add_argument(f"--{name}", action=InOrder, help=option.help, dest="edits", default=[], **kind)


def build_edits(given: Sequence[tuple[str, str]], words: Words) -> list[Edit]:
    """The edits that were asked for.

    Raises:
        UserError: a value that an edit cannot use.
    """
    for name, value in given:
        if OPTIONS[name].metavar and not value.strip():
            raise UserError(f"--{name} has nothing to do: its value is empty.")
    return [OPTIONS[name].build(value, words) for name, value in given]
