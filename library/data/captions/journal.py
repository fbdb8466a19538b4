"""The undo journal of caption edits: what every file was before each step, in a hidden folder beside the captions.

A step is in the journal, on disk, before its first file is written, so that one that was cut short can be undone as well.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from library.core.disk import writing
from library.core.errors import UserError

PLACE = Path(".dojo") / "captions.sqlite"
"""Within the folder whose captions are edited."""

TABLES = """
CREATE TABLE IF NOT EXISTS steps (
    number INTEGER PRIMARY KEY AUTOINCREMENT, made TEXT NOT NULL, command TEXT NOT NULL, state TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS files (
    step INTEGER NOT NULL REFERENCES steps(number), path BLOB NOT NULL, before BLOB, after BLOB NOT NULL,
    PRIMARY KEY (step, path)
) WITHOUT ROWID;
"""
"""state: writing, done, undone, or partly: undone but for the files that are left. path: within the folder, with slashes; whole for
a file elsewhere, which a link leads to. before: NULL where the file is new; after: a digest."""


@dataclass(frozen=True)
class Step:
    """One command that was applied."""

    number: int
    made: str
    """Local time, ISO 8601 to the second."""
    command: str
    state: str
    """"writing" (cut short), "done", "undone", or "partly": undone but for `files` of it."""
    files: int


@dataclass(frozen=True, slots=True)
class Restoration:
    """What undoing does to one file."""

    path: Path
    content: bytes | None
    """None: the file was made by the step, and is removed."""
    conflict: str = ""
    """Why it should be left alone: somebody else has changed it since."""


class Journal:
    """The journal of one folder. Nothing is made on disk before something is recorded.

    Args:
        root: the folder whose captions are edited.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.path = self.root / PLACE

    def steps(self) -> list[Step]:
        """Every step, the latest first."""
        rows = self._rows(
            "SELECT number, made, command, state, (SELECT COUNT(*) FROM files WHERE step = number) "
            "FROM steps ORDER BY number DESC"
        )
        return [Step(*row) for row in rows]

    def record(self, command: str, files: Sequence[tuple[Path, bytes | None, bytes]]) -> int:
        """Note a step that is about to be written; returns its number.

        Args:
            files: of each the path, the bytes before (None: there is no file) and after.

        Raises:
            UserError: the journal cannot be written.
        """
        with writing(self.path):
            self.path.parent.mkdir(exist_ok=True)
        made = datetime.now().isoformat(" ", "seconds")
        with self._opened() as base:
            base.executescript(TABLES)
            step = base.execute(
                "INSERT INTO steps (made, command, state) VALUES (?, ?, 'writing')", (made, command)
            ).lastrowid
            assert step is not None
            base.executemany(
                "INSERT INTO files VALUES (?, ?, ?, ?)",
                ((step, self._stored(path), before, _digest(after)) for path, before, after in files),
            )
        return step

    def forget(self, step: int, paths: Sequence[Path]) -> None:
        """Take files out of a step that were not written after all."""
        with self._opened() as base:
            base.executemany(
                "DELETE FROM files WHERE step = ? AND path = ?", ((step, self._stored(path)) for path in paths)
            )

    def finish(self, step: int) -> None:
        """Note that a step is written."""
        with self._opened() as base:
            base.execute("UPDATE steps SET state = 'done' WHERE number = ?", (step,))

    def take_back(self, steps: Sequence[int], left: Sequence[Path]) -> None:
        """Note that steps are undone, but for files that are left as they are: of those everything stays in the journal."""
        kept = [self._stored(path) for path in left]
        with self._opened() as base:
            for step in steps:
                of_step = {path for (path,) in base.execute("SELECT path FROM files WHERE step = ?", (step,))}
                if of_step.isdisjoint(kept):
                    base.execute("UPDATE steps SET state = 'undone' WHERE number = ?", (step,))
                    continue
                base.execute("UPDATE steps SET state = 'partly' WHERE number = ?", (step,))
                others = of_step.difference(kept)
                base.executemany("DELETE FROM files WHERE step = ? AND path = ?", ((step, path) for path in others))

    def restorations(self, steps: Sequence[int]) -> list[Restoration]:
        """What brings every file back to what it was before these steps, which are the latest ones, by path.

        Files that are so already are left out.
        """
        rows = self._rows(
            f"SELECT path, before, after FROM files WHERE step IN ({','.join('?' * len(steps))}) ORDER BY path, step DESC",
            steps,
        )
        by_path: dict[bytes, list[tuple[bytes | None, bytes]]] = {}
        for path, before, after in rows:
            by_path.setdefault(path, []).append((before, after))
        found = (self._restoration(self.root / os.fsdecode(path), turns) for path, turns in by_path.items())
        return [each for each in found if each is not None]

    def _restoration(self, path: Path, turns: Sequence[tuple[bytes | None, bytes]]) -> Restoration | None:
        """`turns`: bytes before and digest after, the latest step first."""
        try:
            now: bytes | None = path.read_bytes()
        except FileNotFoundError:
            now = None
        except OSError as error:
            return Restoration(path, turns[-1][0], f"cannot be read ({error.strerror or error})")
        wanted = turns[-1][0]
        if now == wanted:
            return None
        if now is None:
            return Restoration(path, wanted, "is gone")
        (latest_before, latest_after), older = turns[0], turns[1:]
        ours = _digest(now) == latest_after or now == latest_before  # the latter where the step was cut short
        unbroken = all(after == _digest(before) for (before, _), (_, after) in zip(turns, older))
        return Restoration(path, wanted, "" if ours and unbroken else "was changed by somebody else since")

    def _stored(self, path: Path) -> bytes:
        place = str(path.absolute()).removeprefix(f"{self.root}{os.sep}")
        return os.fsencode(place.replace(os.sep, "/"))

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple]:
        if not self.path.is_file():
            return []
        with self._opened() as base:
            return base.execute(query, values).fetchall()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The database; what is done in the block is kept whole or not at all."""
        try:
            with closing(sqlite3.connect(self.path, timeout=30)) as base, base:
                yield base
        except sqlite3.Error as error:
            raise UserError(
                f"the journal {self.path} cannot be used ({error}). Check the rights of its folder and the room on its disk; where "
                "the file is damaged, remove it: the captions stay as they are, but earlier steps cannot be undone."
            ) from error


def _digest(content: bytes | None) -> bytes:
    """Empty for a file that is not there."""
    return b"" if content is None else hashlib.blake2b(content, digest_size=16).digest()
