"""Every original made in threads, but for those that an earlier run has made already."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.hashing import content_hash
from library.core.runtime import available_cores
from library.data.index.folder import numbers_of
from library.data.index.manifest import settled_before
from library.data.pictures.room import Room
from library.data.preparing.making import UNREADABLE, Made, Product, key_of, make
from library.data.preparing.manifest import Manifest, Record
from library.data.preparing.originals import Original
from library.data.preparing.settings import Settings

WORKSHOP = ".preparing"
"""Folder of what is made, below that of the prepared pictures, until all has its place."""

T = TypeVar("T")


class Workshop:
    """Where made pictures wait, by their key (see `making.key_of`), until all are made; an interrupted run leaves it to the next one.

    Args:
        folder: of the prepared pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / WORKSHOP

    def picture(self, key: str) -> Path:
        """Where a made picture waits."""
        return self.folder / f"{key}.picture"

    def mask(self, key: str) -> Path:
        """Where its mask waits."""
        return self.folder / f"{key}.mask"

    def find(self, key: str) -> Made | None:
        """What became of an original, where that is known; its files are then there, whole."""
        try:
            return Made.from_json(parse_json((self.folder / f"{key}.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, DocumentError, TypeError):
            return None

    def keep(self, key: str, product: Product) -> None:
        """Write the files, and last what says that they are there.

        Raises:
            UserError: they cannot be written.
        """
        if product.picture:
            write_atomically(self.picture(key), lambda path: path.write_bytes(product.picture))
        if product.mask:
            write_atomically(self.mask(key), lambda path: path.write_bytes(product.mask))
        told = json.dumps(product.made.as_json())
        write_atomically(self.folder / f"{key}.json", lambda path: path.write_text(told, encoding="utf-8"))

    def take_back(self, key: str, made: Made, picture: Path, mask: Path | None) -> None:
        """Copy files here that an earlier run has made, so that they may go to another place."""
        self.keep(key, Product(made, picture.read_bytes(), b"" if mask is None else mask.read_bytes()))

    def clear(self) -> None:
        """Everything has its place."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Production:
    """How originals are made."""

    settings: Settings
    former: Manifest
    workshop: Workshop
    keeps: bool
    """Whether what is made is written; else it is only looked at."""
    progress: bool
    """Show a bar with the time left."""
    room: Room = field(default_factory=Room)

    def records(self, originals: Sequence[Original]) -> list[Record]:
        """What becomes of each original: known from an earlier run where it has not changed, else made.

        Raises:
            UserError: a made picture cannot be written.
        """
        return self._in_threads(self._record, originals, "preparing")

    def made_again(self, originals: Sequence[Original], records: Sequence[Record]) -> list[Record]:
        """The same originals made once more, since their files are gone.

        Raises:
            UserError: as `records`, and where an original has changed.
        """

        def make_again(number: int) -> Record:
            original, record = originals[number], records[number]
            try:
                data = original.path.read_bytes()
            except OSError as error:
                raise UserError(f"{original.path}: cannot be read ({error.strerror or error}).") from error
            if content_hash(data) != record.content:
                raise UserError(f"{original.path}: was changed while it was prepared. Prepare again.")
            return replace(record, made=self._make(data, record.key, original))

        return self._in_threads(make_again, range(len(originals)), "making again")

    def _record(self, original: Original) -> Record:
        former = self.former.records.get(original.name)
        try:
            settled, stat, data = settled_before(), numbers_of(original.path.stat()), b""
            if former is not None and former.stat == stat:
                content = former.content
            else:
                data = original.path.read_bytes()
                content = content_hash(data)
            key = key_of(content, self.settings, original.face)
            made = former.made if former is not None and former.key == key else self.workshop.find(key)
            if made is not None and made.left_out == UNREADABLE:
                made = None  # a plugin may have been installed since
            if made is None:
                data = data or original.path.read_bytes()
                content = content_hash(data)
                key = key_of(content, self.settings, original.face)
                made = self._make(data, key, original)
        except OSError as error:
            return Record((), "", "", Made(UNREADABLE, f"cannot be read ({error.strerror or error})."))
        return Record(stat if max(stat[1:3]) < settled else (), content, key, made)

    def _make(self, data: bytes, key: str, original: Original) -> Made:
        product = make(data, self.settings, original.face, self.room)
        if self.keeps:
            self.workshop.keep(key, product)
        return product.made

    def _in_threads(self, task: Callable[[T], Record], items: Sequence[T], title: str) -> list[Record]:
        pool = ThreadPoolExecutor(max_workers=available_cores())
        try:
            records = pool.map(task, items)
            return list(tqdm(records, title, len(items), unit="picture", disable=not self.progress or not items))
        finally:  # after an error, or Ctrl-C, those that wait their turn are not made
            pool.shutdown(cancel_futures=True)
