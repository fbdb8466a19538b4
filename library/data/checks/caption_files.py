"""Findings about files of captions: how they end, which are missing, alone, empty or hard to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from library.config.dataset import Subset
from library.data.checks.findings import Finding, Severity
from library.data.checks.remarks import MOST_OF_A_KIND
from library.data.index.folder import Folder, Listing
from library.data.index.siblings import CAPTION_EXTENSIONS, Siblings, extension_of, stem_of
from library.data.pictures.endings import UNTRAINED

EMPTY_CAPTION = "It trains with an empty caption."

MOST_COMPARED = 100
"""Names with the same digits among which one that is nearly the same is looked for."""

NEAR = 0.7
"""Of `difflib`'s ratio, from which two names are nearly the same."""


def about_endings(subset: Subset, files: Listing, has_captions: bool) -> Iterator[Finding]:
    """Which ending captions have, where that was left open or looks wrong."""
    folder, asked = str(subset.image_dir), subset.captions.caption_extension
    present = sorted({ending for name in files.names if (ending := extension_of(name)) in CAPTION_EXTENSIONS})
    if asked is None and present:
        message = f"captions are read from {' and '.join(present)} files."
        yield Finding("caption files", "notice", folder, message)
    elif asked is not None and present and not has_captions:
        message = f"has no captions that end in {asked}, but some in {' and '.join(present)}."
        advice = "Leave out caption_extension, or set it to that."
        yield Finding("caption files", "warning", folder, message, advice)


def about_missing(path: Path, tokens: str) -> Finding:
    """A picture without a caption, or with `tokens` in its place."""
    if tokens:
        return Finding("no caption", "notice", str(path), "has no caption file.", f"'{tokens}' is its caption.")
    return Finding("no caption", "warning", str(path), "has no caption.", EMPTY_CAPTION)


def about_caption(path: Path, of: Path, tokens: str, encoding: str | None, unreadable: str | None) -> Iterator[Finding]:
    """What is to be said of a caption that is empty, cannot be read, or whose encoding had to be guessed.

    Args:
        of: its picture.
        tokens: the caption in its place.
        encoding: the one that was guessed.
        unreadable: why.
    """
    if unreadable is not None:
        advice = "See that it may be read, or remove it."
        yield Finding("unreadable", "error", str(path), f"cannot be read ({unreadable}).", advice, str(of))
    if encoding is not None:
        severity: Severity = "notice" if encoding.startswith("UTF") else "warning"  # the other is a guess
        message = f"is not UTF-8; it is read as {encoding}."
        yield Finding("encoding", severity, str(path), message, "Save it as UTF-8 to be sure.", str(of))
    elif unreadable is None:
        advice = f"'{tokens}' is its picture's caption." if tokens else "Its picture trains with an empty caption."
        yield Finding("empty caption", "warning", str(path), "is empty.", advice, str(of))


def about_captions_alone(
    folder: Folder, files: Listing, siblings: Siblings, pictures: Sequence[str], found: Sequence[int | None]
) -> Iterator[Finding]:
    """Captions that belong to no picture, be it one that cannot be used.

    Args:
        files, siblings: of the folder.
        pictures: names.
        found: for each of them the place of its caption among `files`.
    """
    alone = siblings.places.difference(place for place in found if place is not None)
    if not alone:
        return
    unread = (name for name in files.names if extension_of(name) in UNTRAINED)
    alone.difference_update(map(siblings.caption_of, unread))
    without: dict[str, list[str]] = {}
    for name, place in zip(pictures, found):
        if place is None:
            without.setdefault(_digits(name), []).append(name)
    for number, place in enumerate(sorted(alone)):
        name = files.names[place]
        near = _nearest(name, without.get(_digits(name), [])) if number < MOST_OF_A_KIND else ""
        meant = f" {Path(near).name} has no caption: is it meant?" if near else ""
        message = f"is the caption of no picture.{meant}"
        yield Finding("caption alone", "notice", str(folder.path(name)), message, "Name it as its picture is named.")


def _digits(name: str) -> str:
    """Names with other numbers are of other pictures, however near they are."""
    return "".join(filter(str.isdigit, stem_of(name)))


def _nearest(name: str, others: Sequence[str]) -> str:
    """The name that is nearly the same but for its ending; "" where there is none, or too many are to be compared."""
    if len(others) > MOST_COMPARED:
        return ""
    stems = {stem_of(other).lower(): other for other in reversed(others)}
    found = difflib.get_close_matches(stem_of(name).lower(), stems, n=1, cutoff=NEAR)
    return stems[found[0]] if found else ""
