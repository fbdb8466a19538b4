"""Captions that `dojo dataset caption` leaves alone: nobody can tell for sure what they say, or their pictures are none."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

from library.cli.dataset_tools.captions.selection import Selection
from library.core.errors import UserError, did_you_mean
from library.core.wording import first_of, how_many
from library.data.captions.files import GUESSED
from library.data.captions.tags import TagMatcher, count_tags, tag_key
from library.data.captions.written import Caption, MetadataFile
from library.data.pictures.images import PictureError, check_opens

MOST_NAMES = 5

FILTERS = ("where_tag", "where_missing", "files", "only_missing")

ENCODINGS = "shift_jis, euc_jp, gb18030, big5, euc_kr, cp1251, cp1252, ..."


def set_aside(arguments: argparse.Namespace, selections: Sequence[Selection]) -> tuple[list[Selection], list[str]]:
    """The captions that can be edited, and what is to be said of the others.

    Raises:
        UserError: none can be edited.
    """
    has_model = arguments.tagger is not None or arguments.captioner is not None
    kept: list[Selection] = list(selections)
    remarks: list[str] = []
    if not has_model or arguments.mode in ("append", "prepend"):  # else what is there is not read
        kept, remarks = _readable(arguments, selections)
    if not has_model:
        kept, no_pictures = _with_pictures(arguments, kept)
        remarks += no_pictures
    if not any(each.captions for each in kept):
        raise UserError("\n".join(remarks))
    return kept, remarks


def about_guesses(selections: Sequence[Selection]) -> list[str]:
    """What is to be said where captions are counted that are read by a guess, or not whole."""
    lost, guessed = _doubtful(selections)
    remarks = []
    if lost:
        told = _told(selections, lost, f"counted with gaps, since {_no_text(lost)}")
        remarks.append(f"{told} --encoding NAME says which it is ({ENCODINGS}).")
    if guessed:
        told = _told(selections, guessed, f"read as {GUESSED}, a guess")
        remarks.append(f"{told} --encoding NAME says otherwise ({ENCODINGS}).")
    return remarks


def nothing_found(arguments: argparse.Namespace, selections: Sequence[Selection]) -> UserError:
    """Why there is no caption to work on."""
    captions = [caption for each in selections for caption in each.collection.captions]
    missing = sum(len(each.collection.missing) for each in selections)
    given = [name for name in FILTERS if getattr(arguments, name)]
    if given and (captions or missing):
        texts = [caption.text for caption in captions]
        known = count_tags(texts, arguments.caption_separator)
        absent = [tag for tag in arguments.where_tag if not any(map(TagMatcher([tag]), known))]
        told = [f"no caption has the tag '{tag}'.{did_you_mean(tag_key(tag), known)}" for tag in absent]
        left = f"of {how_many(len(captions), 'caption')} none is left by --{' and --'.join(given)}."
        return UserError("\n".join(told) or left)
    deeper = " --recursive looks into subfolders." if arguments.folders and not arguments.recursive else ""
    if missing:
        pictures = how_many(missing, "picture that has none", "pictures that have none")
        return UserError(f"there is no caption here: --create makes them for the {pictures}.{deeper}")
    return UserError(f"there is neither a caption nor a picture here.{deeper}")


def _readable(arguments: argparse.Namespace, selections: Sequence[Selection]) -> tuple[list[Selection], list[str]]:
    lost, guessed = _doubtful(selections)
    remarks = []
    if lost:
        told = _told(selections, lost, f"left alone, since {_no_text(lost)}")
        remarks.append(f"{told} --encoding NAME says which it is ({ENCODINGS}).")
    if guessed and arguments.to_utf8:
        told = _told(selections, guessed, f"taken for {GUESSED}, a guess")
        remarks.append(f"{told} --encoding NAME says otherwise ({ENCODINGS}), and --undo brings the bytes back.")
    elif guessed:
        told = _told(selections, guessed, "left alone, since the encoding can only be guessed")
        remarks.append(f"{told} --encoding NAME says which it is ({ENCODINGS}); --to_utf8 takes it for {GUESSED}.")
    left = {id(caption) for caption in (*lost, *(() if arguments.to_utf8 else guessed))}
    return [replace(each, captions=[c for c in each.captions if id(c) not in left]) for each in selections], remarks


def _doubtful(selections: Sequence[Selection]) -> tuple[list[Caption], list[Caption]]:
    """Captions with bytes that are no text in their encoding, and those whose encoding is a guess that reads them whole."""
    lost = _those(selections, lambda caption: not caption.is_whole)
    return lost, _those(selections, lambda caption: caption.is_guess and caption.is_whole)


def _no_text(lost: Sequence[Caption]) -> str:
    return f"bytes are no text in {', '.join(sorted({caption.encoding for caption in lost}))}"


def _with_pictures(arguments: argparse.Namespace, selections: Sequence[Selection]) -> tuple[list[Selection], list[str]]:
    """Without captions that would be made for files that are no pictures."""
    reasons = {}
    for caption in _those(selections, lambda caption: caption.source.data is None):
        try:
            check_opens(caption.picture)
        except PictureError as error:
            reasons[caption.picture] = str(error)
    told = [f"{path} {reason} It gets no caption." for path, reason in reasons.items()]
    if len(told) > arguments.show:
        told = [*told[: arguments.show], f"nor do {len(told) - arguments.show} more, which are no pictures."]
    return [replace(each, captions=[c for c in each.captions if c.picture not in reasons]) for each in selections], told


def _those(selections: Sequence[Selection], wanted: Callable[[Caption], bool]) -> list[Caption]:
    return [caption for each in selections for caption in each.captions if wanted(caption)]


def _told(selections: Sequence[Selection], captions: Sequence[Caption], what: str) -> str:
    """What is done with captions: how many they are, and the files of the first."""
    chosen = {id(caption) for caption in captions}
    names = [
        _file(each, caption, len(selections) > 1)
        for each in selections
        for caption in each.captions
        if id(caption) in chosen
    ]
    named = first_of(list(dict.fromkeys(names)), MOST_NAMES)
    return f"{how_many(len(names), 'caption is', 'captions are')} {what}: {named}."


def _file(selection: Selection, caption: Caption, several: bool) -> str:
    if isinstance(selection.collection, MetadataFile):
        return selection.collection.source.path.name
    return selection.label(caption) if several else caption.label
