"""Where made pictures wait until all are made: a folder that an interrupted run leaves, and the next one goes on from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from library.core.documents import DocumentError, parse_json
from library.core.files import write_atomically
from library.data.preparing.making import Made, Product

NAME = ".preparing"


class Workshop:
    """Made pictures by their key; see `making.key_of`.

    Args:
        folder: of the prepared pictures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / NAME

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
        except (FileNotFoundError, DocumentError, TypeError):
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
