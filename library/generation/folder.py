"""A folder of generated pictures, laid out so that a trainer takes it as its `train_data_dir`.

training_data/alexander/
    10_alexander fighter/0001_123.png, 0001_123.txt, ...
    @review/sheet.png                 trainers pass over folders that begin with @
    @review/rejected/0003_456.png     weeded out
    generation.json
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from library.config.picture_folders import IMAGE_EXTENSIONS
from library.core.disk import writing
from library.core.errors import UserError
from library.generation.record import NAME, Entry, Record, read_record

REVIEW = "@review"

State = Literal["made", "rejected", "missing"]


@dataclass(frozen=True)
class GeneratedFolder:
    """Where things are below its root."""

    root: Path
    pictures: Path

    @property
    def review(self) -> Path:
        """What is there to look at, and not to train on."""
        return self.root / REVIEW

    def picture(self, entry: Entry) -> Path:
        """Where a picture is, or will be."""
        return self.pictures / f"{entry.stem}.png"

    def rejected(self, entry: Entry) -> Path:
        """Where it is once it has been weeded out."""
        return self.review / "rejected" / f"{entry.stem}.png"

    def state(self, entry: Entry) -> State:
        """What the files say of a picture; whoever moves a rejected one back has it again."""
        if self.picture(entry).is_file():
            return "made"
        return "rejected" if self.rejected(entry).is_file() else "missing"

    def reject(self, entry: Entry) -> None:
        """Move a picture and its caption to where no trainer looks."""
        source, target = self.picture(entry), self.rejected(entry)
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)  # first: a caption without its picture does no harm where it is cut short
            if source.with_suffix(".txt").is_file():
                source.with_suffix(".txt").replace(target.with_suffix(".txt"))

    def remove(self, entry: Entry) -> None:
        """Remove a picture that was made otherwise, weeded out or not, with its caption."""
        for path in (self.picture(entry), self.rejected(entry)):
            with writing(path):
                path.unlink(missing_ok=True)
                path.with_suffix(".txt").unlink(missing_ok=True)


def folder_of(root: Path, record: Record) -> GeneratedFolder:
    """The folder that a note tells of."""
    return GeneratedFolder(root, root / record.folder)


def open_folder(root: Path, character: str, folder_name: str) -> Record | None:
    """What is noted of the pictures that are there already; None where nothing is there.

    Raises:
        UserError: there are pictures of another character, or that this command has not made.
    """
    record = read_record(root)
    if record is None:
        if found := _some_picture(root):
            raise UserError(
                f"--out {root} holds pictures that this command has not made ({found.relative_to(root)}; there is no {NAME}). "
                "Name another folder."
            )
        return None
    if (record.character, record.folder) != (character, folder_name):
        raise UserError(
            f"--out {root} holds pictures of '{record.character}' in '{record.folder}', and these would be of '{character}' in "
            f"'{folder_name}'. Name another folder."
        )
    return record


def numbers_in(words: Iterable[str], option: str) -> list[int]:
    """Numbers and ranges of them: 3, 7-9, "3,5".

    Raises:
        UserError: something else.
    """
    numbers: set[int] = set()
    for word in (part for each in words for part in each.split(",") if part):
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash) and 0 < int(first) <= int(last or first) < 10**6):
            raise UserError(f"{option}: '{word}' is no number of a picture; write them as 3 7-9.")
        numbers.update(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def _some_picture(root: Path) -> Path | None:
    if not root.is_dir():
        return None
    places = [root, *(path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith("."))]
    return next(
        (file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in IMAGE_EXTENSIONS), None
    )
