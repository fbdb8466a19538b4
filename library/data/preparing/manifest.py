"""What a folder of prepared pictures knows of how it came about, so that a further run does only what has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.files import write_atomically
from library.data.preparing.making import Made
from library.data.preparing.placing import Wanted, Written, is_there, written_stat

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
    """That of a folder; an empty one where it has none. Files that an interrupted run has put into place are in it too.

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
        manifest = Manifest(
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
        coming = dict(table.get("coming", {}))
    except (OSError, UnicodeDecodeError, DocumentError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}). Remove it and prepare again: files that are the same stay, and with --overwrite "
            "those that differ are replaced."
        ) from error
    for name, content in coming.items():
        if is_there(folder / name, content, None):
            manifest.files[name] = Written(content, written_stat(folder / name))
    return manifest


def announce(folder: Path, manifest: Manifest, wanted: Mapping[str, Wanted]) -> None:
    """Note files that will be put into place, so that whichever are there after an interruption are known to be ours.

    Raises:
        UserError: it cannot be written.
    """
    known = {name: file.content for name, file in manifest.files.items()}
    coming = {name: file.content for name, file in wanted.items() if known.get(name) != file.content}
    if coming:
        write_manifest(folder, manifest, coming)


def write_manifest(folder: Path, manifest: Manifest, coming: Mapping[str, str] | None = None) -> None:
    """Write it, whole or not at all.

    Args:
        coming: path below the folder -> hash of the file that is about to be put there.

    Raises:
        UserError: it cannot be written.
    """
    table = {
        "version": VERSION,
        "source": manifest.source,
        "pictures": {name: asdict(record) for name, record in manifest.records.items()},
        "files": {name: [file.content, *file.stat] for name, file in manifest.files.items()},
        "coming": dict(coming or {}),
    }
    text = json.dumps(table, ensure_ascii=False, indent=1)
    write_atomically(folder / NAME, lambda path: path.write_text(text, encoding="utf-8"))
