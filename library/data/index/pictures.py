"""The pictures of a run, column by column: about 70 bytes each, whether there are twenty or a million."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset, Subset
from library.data.index.texts import Texts, TextsInTheMaking
from library.data.pictures.buckets import Size

ROW = np.dtype(
    [
        ("subset", "<u2"),
        ("name", "<u4"),
        ("caption", "<u4"),
        ("caption_name", "<u4"),
        ("mask", "<u4"),
        ("mask_content", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("content", "V20"),
    ]
)
"""A picture: the number of its subset in `Pictures.subsets`, the numbers of its texts, the size of the upright picture, and the hash of its bytes."""


@dataclass(frozen=True)
class Picture:
    """One picture of a subset, as the run sees it."""

    path: Path
    width: int
    """Of the upright picture: its EXIF orientation is applied."""
    height: int
    caption: str
    """As written; several lines are alternatives."""
    dataset: int
    subset: int
    """Index within its dataset."""
    is_reg: bool
    repeats: int
    caption_path: Path | None = None
    """None where the caption comes from class_tokens or metadata, or is missing."""
    mask_path: Path | None = None
    content: str = ""
    """Hash of the file's bytes."""
    mask_content: str = ""

    @property
    def size(self) -> Size:
        """(width, height)."""
        return self.width, self.height


@dataclass(frozen=True)
class SubsetFacts:
    """What the pictures of a subset have in common."""

    root: Path
    dataset: int
    subset: int
    is_reg: bool
    repeats: int


@dataclass(frozen=True, eq=False)
class Pictures(Sequence[Picture]):
    """N pictures, each made when it is asked for."""

    subsets: tuple[SubsetFacts, ...]
    """Those that have pictures, of all datasets."""
    texts: Texts
    rows_N: NDArray[np.void]
    """Of ROW."""

    def __len__(self) -> int:
        return len(self.rows_N)

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> Picture: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Pictures: ...

    def __getitem__(self, index: Any) -> Picture | Pictures:
        """One of them; with a slice, or an array of places or truths, those."""
        if not isinstance(index, (int, np.integer)):
            return Pictures(self.subsets, self.texts, self.rows_N[index])
        subset, name, caption, caption_name, mask, mask_content, width, height, content = self.rows_N[index].tolist()
        text, of = self.texts, self.subsets[subset]
        return Picture(
            of.root / text[name],
            width,
            height,
            text[caption],
            of.dataset,
            of.subset,
            of.is_reg,
            of.repeats,
            of.root / text[caption_name] if caption_name else None,
            Path(text[mask]) if mask else None,
            bytes(content).hex(),
            text[mask_content],
        )

    def caption(self, index: int) -> str:
        """That of one of them, without the rest."""
        return self.texts[self.rows_N["caption"][index]]

    def of_subsets(self, attribute: str) -> NDArray[Any]:
        """(N,) an attribute of each picture's subset, such as "dataset"."""
        return np.array([getattr(facts, attribute) for facts in self.subsets] or [0])[self.rows_N["subset"]]

    @property
    def contents_N(self) -> NDArray[np.bytes_]:
        """(N,) hashes of the files, as bytes that compare."""
        return np.ascontiguousarray(self.rows_N["content"]).view("S20")


def rows_of_subsets(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[tuple[Subset, int]]:
    """The row of each picture with its subset, without making the picture."""
    for number, facts in enumerate(pictures.subsets):
        subset = datasets[facts.dataset].subsets[facts.subset]
        for row in np.flatnonzero(pictures.rows_N["subset"] == number).tolist():
            yield subset, row


class PicturesInTheMaking:
    """Takes pictures one by one."""

    def __init__(self) -> None:
        self.texts = TextsInTheMaking()
        self._subsets: list[SubsetFacts] = []
        self._rows: list[NDArray[np.void]] = []

    def add(self, facts: SubsetFacts, rows_N: NDArray[np.void]) -> None:
        """Pictures of one subset; their texts are numbers of `texts`, their `subset` is set here."""
        rows_N["subset"] = len(self._subsets)
        self._subsets.append(facts)
        self._rows.append(rows_N)

    def finished(self) -> Pictures:
        """All of them."""
        return Pictures(tuple(self._subsets), self.texts.finished(), joined(self._rows, ROW))


def those(rows_N: NDArray[np.void], which_N: NDArray[np.bool_]) -> NDArray[np.void]:
    """The rows that are asked for; where that is all of them, no copy."""
    return rows_N if which_N.all() else rows_N[which_N]


def joined(parts: Sequence[NDArray[np.void]], kind: np.dtype) -> NDArray[np.void]:
    """The rows of all parts; of one, no copy."""
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, kind), *parts])
