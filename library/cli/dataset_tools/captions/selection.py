"""Which captions `dojo dataset caption` works on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from fnmatch import fnmatch

from library.core.terminal import harmless
from library.data.captions.tags import TagMatcher, tags_of
from library.data.captions.written import Caption, CaptionFolder, MetadataFile, find_captions, read_captions

Collection = CaptionFolder | MetadataFile


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
        find_captions(folder, arguments.recursive, arguments.caption_extension) for folder in arguments.folders
    ]
    collections += [read_captions(file) for file in arguments.in_json]
    for each in collections:
        if each.strays:
            print(harmless(f"notice: {each.root}: {each.strays} text files belong to no picture; they are left alone."))
    selections = []
    for each in collections:
        everything = [*each.captions, *(each.missing if with_missing else ())]
        selections.append(Selection(each, [caption for caption in everything if _is_chosen(caption, arguments)]))
    return selections


def _is_chosen(caption: Caption, arguments: argparse.Namespace) -> bool:
    if arguments.files and not (
        fnmatch(caption.picture.name, arguments.files) or fnmatch(caption.label, arguments.files)
    ):
        return False
    if not arguments.where_tag and not arguments.where_missing:
        return True
    tags = tags_of(caption.text, arguments.caption_separator)
    has = [any(map(TagMatcher([wanted]), tags)) for wanted in arguments.where_tag]
    lacks = [not any(map(TagMatcher([unwanted]), tags)) for unwanted in arguments.where_missing]
    return all(has) and all(lacks)
