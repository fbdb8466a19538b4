"""The captions of a folder: read, or known from the last time where it is large and they have not changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from library.core.runtime import available_cores
from library.data.captions.files import caption_in
from library.data.index.folder import Folder, Listing
from library.data.index.look import NOTED_TOGETHER, ahead, is_small
from library.data.index.manifest import Manifest, trusted_stats
from library.data.index.texts import TextsInTheMaking


@dataclass
class Captions:
    """The captions of N files."""

    numbers_N: NDArray[np.int64]
    """Of their texts; 0 where one is empty."""
    guessed: dict[int, str] = field(default_factory=dict)
    """By place, the encoding of those that are not UTF-8."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """By place, why."""


def read_captions(folder: Folder, listing: Listing, manifest: Manifest, texts: TextsInTheMaking) -> Captions:
    """The captions in N files of a folder, kept in `texts`."""
    captions = Captions(np.zeros(len(listing), np.int64))
    small = is_small(listing)
    again = list(range(len(listing))) if small else list(_known(folder, listing, manifest, texts, captions))
    trusted_N4 = trusted_stats(listing.stats_N4)
    noting: list[tuple[str, bytes, str, str]] = []
    with ThreadPoolExecutor(max(2, available_cores())) as pool:
        for place, read in zip(again, ahead(pool, lambda place: _read(folder, listing.names[place]), again)):
            if isinstance(read, OSError):
                captions.unreadable[place] = read.strerror or str(read)
                continue
            caption, encoding = read
            _take(captions, place, texts.add(caption), encoding)
            if not small:
                noting.append((listing.names[place], trusted_N4[place].tobytes(), caption, encoding))
            if len(noting) == NOTED_TOGETHER:
                manifest.note_captions(folder.root, noting)
                noting.clear()
    manifest.note_captions(folder.root, noting)
    return captions


def _known(
    folder: Folder, listing: Listing, manifest: Manifest, texts: TextsInTheMaking, captions: Captions
) -> Iterator[int]:
    """Takes over what is known of unchanged files; gives the places of the others. Both are in the order of their names."""
    place, names, stats = 0, listing.names, listing.stats_N4.tobytes()
    for name, stat, caption, encoding in manifest.captions(folder.root):
        while place < len(names) and names[place] != name and os.fsencode(names[place]) < os.fsencode(name):
            yield place
            place += 1
        if place < len(names) and names[place] == name:
            if stats[place * len(stat) : (place + 1) * len(stat)] == stat:
                _take(captions, place, texts.add(caption), encoding)
            else:
                yield place
            place += 1
    yield from range(place, len(names))


def _take(captions: Captions, place: int, number: int, encoding: str) -> None:
    captions.numbers_N[place] = number
    if encoding:
        captions.guessed[place] = encoding


def _read(folder: Folder, name: str) -> tuple[str, str] | OSError:
    try:
        return caption_in(folder.read(name))
    except OSError as error:
        return error
