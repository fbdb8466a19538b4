"""Files that belong together by their name: a picture, its caption and its mask."""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from library.core.files import is_folder
from library.data.pictures.placement import face_of

CAPTION_EXTENSIONS = (".caption", ".txt")
"""The earlier wins."""


class Siblings:
    """Files by their name without extension: as written, else whatever its case.

    Args:
        names: where to look; "sub/anna.txt" belongs to "sub/anna.png" alone.
        extensions: in lower case; of two files of one name, that of the earlier extension wins.
    """

    def __init__(self, names: Sequence[str], extensions: Sequence[str]) -> None:
        self._exact: dict[str, int] = {}
        for extension in extensions:
            for place, name in enumerate(names):
                if name.lower().endswith(extension):
                    self._exact.setdefault(normal(name[: -len(extension)]), place)

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def places(self) -> set[int]:
        """Of all files that can be found."""
        return set(self._exact.values())

    def find(self, stem: str) -> int | None:
        """The place of the file of that name, or None."""
        stem = normal(stem)
        found = self._exact.get(stem)
        return self._folded.get(stem.lower()) if found is None else found

    def caption_of(self, name: str) -> int | None:
        """The place of a picture's caption; the file name's face numbers may be missing in the caption's name."""
        stem = stem_of(name)
        found = self.find(stem)
        return self.find(without_face(stem)) if found is None else found

    @cached_property
    def _folded(self) -> dict[str, int]:
        """In lower case; made where a name is not found as it is written."""
        folded: dict[str, int] = {}
        for stem, place in self._exact.items():
            folded.setdefault(stem.lower(), place)
        return folded


def stem_of(name: str) -> str:
    """A file's name without its last extension, with its folders."""
    stem, dot, extension = name.rpartition(".")
    return stem if dot and "/" not in extension else name


def extension_of(name: str) -> str:
    """A file's last extension in lower case."""
    return name[len(stem_of(name)) :].lower()


def caption_endings(extension: str | None) -> tuple[str, ...]:
    """Endings of caption files, in lower case: the one that is given, with or without its dot, else CAPTION_EXTENSIONS."""
    return CAPTION_EXTENSIONS if extension is None else (f".{extension.lower().removeprefix('.')}",)


def subfolders(folder: Path) -> list[Path]:
    """The folder's own folders by name, hidden ones apart."""
    with os.scandir(folder) as entries:
        return sorted(folder / each.name for each in entries if not each.name.startswith(".") and is_folder(each))


def normal(name: str) -> str:
    """The name in one spelling: systems differ in how they write accents."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def without_face(stem: str) -> str:
    """`anna` of `anna_320_180_96_110`; a name that tells of no face (see `placement.face_of`) stays as it is."""
    return stem if face_of(stem) is None else stem.rsplit("_", 4)[0]


def suggestion(folder: Path) -> str:
    """What to do about a folder that does not exist."""
    if not folder.parent.is_dir():
        return "Check the path."
    near = difflib.get_close_matches(folder.name, [path.name for path in subfolders(folder.parent)], n=1)
    return f"Did you mean '{near[0]}'?" if near else "Check the path."
