"""Files that belong together by their name: a picture, its caption and its mask."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path


class Siblings:
    """Files by their name without extension: as written, else whatever its case.

    Args:
        files: where to look.
        extensions: in lower case; of two files of one name, that of the earlier extension wins.
    """

    def __init__(self, files: Sequence[Path], extensions: Sequence[str]) -> None:
        self._exact: dict[str, Path] = {}
        self._folded: dict[str, Path] = {}
        for extension in extensions:
            for path in files:
                if path.name.lower().endswith(extension):
                    stem = normal(path.name[: -len(extension)])
                    self._exact.setdefault(stem, path)
                    self._folded.setdefault(stem.lower(), path)

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, stem: str) -> Path | None:
        """The file of that name, or None."""
        stem = normal(stem)
        return self._exact.get(stem) or self._folded.get(stem.lower())

    def caption_of(self, picture: Path) -> Path | None:
        """The caption of a picture; the file name's face numbers may be missing in the caption's name."""
        return self.find(picture.stem) or self.find(without_face(picture.stem))


def visible_files(folder: Path) -> list[Path]:
    """The folder's own files by name; hidden ones (such as macOS's `._photo.jpg`) are none of ours.

    Raises:
        OSError: the folder cannot be listed.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def subfolders(folder: Path) -> list[Path]:
    """The folder's own folders by name, hidden ones apart."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_dir())


def normal(name: str) -> str:
    """The name in one spelling: systems differ in how they write accents."""
    return unicodedata.normalize("NFC", name)


def without_face(stem: str) -> str:
    """`anna` of `anna_320_180_96_110`."""
    parts = stem.split("_")
    return "_".join(parts[:-4]) if len(parts) >= 5 else stem


def suggestion(folder: Path) -> str:
    """What to do about a folder that does not exist."""
    if not folder.parent.is_dir():
        return "Check the path."
    near = difflib.get_close_matches(folder.name, [path.name for path in subfolders(folder.parent)], n=1)
    return f"Did you mean '{near[0]}'?" if near else "Check the path."
