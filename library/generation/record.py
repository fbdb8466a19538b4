"""The note beside generated pictures, `generation.json`: what they were made from, and what each shows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.files import write_atomically
from library.generation.plan import PlannedPicture
from library.inference.requests import SampleRequest

NAME = "generation.json"

FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One picture."""

    number: int
    attempt: int
    choices: Mapping[str, str]
    """Axis -> name of its entry."""
    caption: str
    """As it was written; the file beside the picture may have been edited since."""
    request: SampleRequest

    @property
    def stem(self) -> str:
        """Name of its files without extension."""
        return f"{self.number:04d}_{self.request.seed}"


@dataclass(frozen=True)
class Record:
    """What is noted of a folder of generated pictures."""

    character: str
    trigger: str
    folder: str
    """Name of the folder with the pictures."""
    sheet: Mapping[str, Any]
    """The table that the sheet was read from, with what the command line changed."""
    model: Mapping[str, Any]
    """Options that chose the model, and hashes of its parts and of the LoRAs."""
    entries: Mapping[int, Entry]
    """By number."""


def entry_of(picture: PlannedPicture, request: SampleRequest) -> Entry:
    """What is noted of a picture."""
    names = {axis: choice.name for axis, choice in picture.choices.items()}
    return Entry(picture.number, picture.attempt, names, picture.caption, request)


def read_record(root: Path) -> Record | None:
    """The note in a folder; None where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = root / NAME
    if not path.exists():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(
                f"{path} is of another version of LoRA Dojo (format {found['format']}): name another --out."
            )
        if Path(found["folder"]).name != found["folder"]:
            raise ValueError("folder is not a name")
        if not {"options", "identity"} <= set(found["model"]):
            raise ValueError("the model is not told")
        entries = [_entry(table) for table in found["pictures"]]
        return Record(
            found["character"], found["trigger"], found["folder"], found["sheet"], found["model"],
            {entry.number: entry for entry in entries},
        )  # fmt: skip
    except (OSError, UnicodeDecodeError, DocumentError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}). It tells which pictures there are made by this command: name "
            "another --out, or put back the file as it was."
        ) from error


def write_record(root: Path, record: Record) -> None:
    """Write the note, whole or not at all."""
    table = {
        "format": FORMAT,
        "character": record.character,
        "trigger": record.trigger,
        "folder": record.folder,
        "model": dict(record.model),
        "sheet": dict(record.sheet),
        "pictures": [_table(entry) for _, entry in sorted(record.entries.items())],
    }
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    write_atomically(root / NAME, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _table(entry: Entry) -> dict[str, Any]:
    return {
        "number": entry.number,
        "file": f"{entry.stem}.png",
        "attempt": entry.attempt,
        "choices": dict(entry.choices),
        "caption": entry.caption,
        **dataclasses.asdict(entry.request),
    }


def _entry(table: Mapping[str, Any]) -> Entry:
    request = SampleRequest(**{field.name: table[field.name] for field in dataclasses.fields(SampleRequest)})
    entry = Entry(table["number"], table["attempt"], table["choices"], table["caption"], request)
    whole = (entry.number, entry.attempt, request.width, request.height, request.seed, request.steps)
    if not all(type(number) is int for number in whole) or not isinstance(entry.choices, dict):
        raise ValueError(f"picture {entry.number} is damaged")
    return entry
