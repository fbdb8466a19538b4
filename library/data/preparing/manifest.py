"""What a folder of prepared pictures knows of how it came about, so that a further run does only what has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.files import write_atomically
from library.data.preparing.making import Made
from library.data.preparing.placing import Written

NAME = "prepared.json"
VERSION = 1


@dataclass(frozen=True)
class Record:
    """One original as it was when it was last prepared."""

    stat: tuple[int, ...]
    """See `index.folder.numbers_of`; empty where the file had only just been written, so that its next change might not show."""
    content: str
    key: str
    """Of what it became, see `making.key_of`."""
    made: Made
    files: tuple[str, ...] = ()
    """What was written for it, as paths below the folder: the picture, its mask if it has one, its captions."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The picture and its mask."""
        return self.files[: 2 if self.made.mask_content else 1]


@dataclass(frozen=True)
class Manifest:
    """All of them."""

    source: str = ""
    """Where the originals are."""
    records: dict[str, Record] = field(default_factory=dict)
    """Path below the source -> record."""
    files: dict[str, Written] = field(default_factory=dict)
    """Path below the folder -> what was written there."""


def read_manifest(folder: Path) -> Manifest:
    """That of a folder; an empty one where it has none.

    Raises:
        UserError: it is damaged, or of a later version.
    """
    path = folder / NAME
    if not path.exists():
        return Manifest()
    try:
        table = parse_json(path.read_text(encoding="utf-8"))
        if table["version"] > VERSION:
            raise UserError(f"{path} is of a later version of LoRA Dojo. Update, or name another --out.")
        return Manifest(
            table["source"],
            {
                name: Record(
                    tuple(each["stat"]),
                    each["content"],
                    each["key"],
                    Made.from_json(each["made"]),
                    tuple(each["files"]),
                )
                for name, each in table["pictures"].items()
            },
            {name: Written(content, (size, time)) for name, (content, size, time) in table["files"].items()},
        )
    except (OSError, UnicodeDecodeError, DocumentError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Remove it and prepare again: files that are the same stay, and with --overwrite "
            "those that differ are replaced."
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """
    Raises:
        UserError: it cannot be written.
    """
    import json

    table: dict[str, Any] = {
        "version": VERSION,
        "source": manifest.source,
        "pictures": {name: asdict(record) for name, record in manifest.records.items()},
        "files": {name: [file.content, *file.stat] for name, file in manifest.files.items()},
    }
    write: Callable[[Path], object] = lambda path: path.write_text(  # noqa: E731
        json.dumps(table, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    write_atomically(folder / NAME, write)
