"""Which captions `dojo dataset caption` works on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

from library.core.terminal import harmless
from library.core.wording import first_of, how_many
from library.data.captions.tags import TagMatcher, tags_of
from library.data.captions.written import Caption, CaptionFolder, MetadataFile, find_captions, read_captions

Collection = CaptionFolder | MetadataFile

SHOWN_STRAYS = 5


@dataclass(frozen=True)
class Selection:
    """The captions of a collection that are worked on."""

    collection: Collection
    captions: list[Caption]

    def label(self, caption: Caption) -> str:
        """The caption's name, within its collection."""
        return f"{self.collection.root.name}/{caption.label}"


def select(arguments: argparse.Namespace, with_missing: bool) -> list[Selection]:
    """The captions that are asked for.

    Args:
        with_missing: also those of pictures that have none yet.

    Raises:
        UserError: a folder or file cannot be read.
    """
    collections: list[Collection] = [
        find_captions(folder, arguments.recursive, arguments.caption_extension, arguments.encoding)
        for folder in arguments.folders
    ]
    collections += [read_captions(file, arguments.encoding) for file in arguments.in_json]
    for each in collections:
        if each.strays:
            number = len(each.strays)
            told = f"{how_many(number, 'text file')} {'belongs' if number == 1 else 'belong'} to no picture, left alone"
            named = first_of(each.strays, SHOWN_STRAYS)
            print(harmless(f"notice: {each.root}: {told}: {named}."), file=sys.stderr)  # not among the JSON of --stats
    chosen = _filter(arguments)
    selections = []
    for each in collections:
        everything = [*each.captions, *(each.missing if with_missing else ())]
        selections.append(Selection(each, list(filter(chosen, everything))))
    return selections


def _filter(arguments: argparse.Namespace) -> Callable[[Caption], bool]:
    """Whether a caption is one of those that are asked for."""
    files, separator = arguments.files, arguments.caption_separator
    wanted, unwanted = ([TagMatcher([tag]) for tag in tags] for tags in (arguments.where_tag, arguments.where_missing))

    def is_chosen(caption: Caption) -> bool:
        if arguments.only_missing and caption.text.strip():
            return False
        if files and not (fnmatch(caption.picture.name, files) or fnmatch(caption.label, files)):
            return False
        tags = tags_of(caption.text, separator) if wanted or unwanted else []
        return all(any(map(has, tags)) for has in wanted) and not any(any(map(has, tags)) for has in unwanted)

    return is_chosen
