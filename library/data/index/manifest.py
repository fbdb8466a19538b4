"""What is known of files that were looked at before: a second look only asks whether they have changed.

An entry holds while the file's size, times and inode are those noted with it. Deleting the manifest is always safe.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from library.data.index.record import RECORD

log = logging.getLogger("dojo")

LAYOUT = 4
"""Raised when entries change their form or meaning; older manifests are then made anew."""

PATIENCE = 60.0
"""Seconds for which another process may be writing."""

ROWS_AT_A_TIME = 10_000

RECENT = 2_000_000_000
"""Nanoseconds; some disks give the same time to changes that are so close to one another."""

NEVER = -1
"""Time of change that no file has."""

TABLES = {
    "pictures": "folder BLOB, name BLOB, record BLOB, problem TEXT, reader TEXT",
    "captions": "folder BLOB, name BLOB, stat BLOB, caption TEXT, encoding TEXT",
}
"""Their columns. A picture's `reader` is the Pillow that found its problem: another may well read it."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is noted of N pictures of a folder."""

    names: list[str]
    records_N: NDArray[np.void]
    """Of RECORD."""
    problems: dict[str, str]
    """Why some are no pictures that can be used."""


class Manifest:
    """Notes on the files of folders.

    Args:
        database: an open one.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self.damaged = False
        """Whether a part of it could not be understood."""

    def pictures(self, folder: Path) -> Known:
        """What is noted of a folder's pictures, by name; of a problem that another Pillow had with one, nothing."""
        names: list[str] = []
        records: list[NDArray[np.void]] = []
        problems: dict[str, str] = {}
        query = (
            "SELECT name, record, problem FROM pictures WHERE length(record) = ? AND (problem IS NULL OR reader = ?)"
        )
        for rows in self._rows(query, RECORD.itemsize, PIL.__version__, folder=folder):
            names += [os.fsdecode(row[0]) for row in rows]
            records.append(np.frombuffer(b"".join(row[1] for row in rows), RECORD))
            problems |= {os.fsdecode(name): problem for name, _, problem in rows if problem}
        return Known(names, np.concatenate(records) if records else np.zeros(0, RECORD), problems)

    def captions(self, folder: Path) -> Iterator[tuple[str, bytes, str, str]]:
        """Name, stat, caption and encoding of a folder's captions, by name."""
        query = "SELECT name, stat, caption, encoding FROM captions WHERE true"
        for rows in self._rows(query, folder=folder):
            for name, stat, caption, encoding in rows:
                yield os.fsdecode(name), stat, caption, encoding

    def note_pictures(self, folder: Path, rows: Iterable[tuple[str, NDArray[np.void], str | None]]) -> None:
        """Keep names, records (of one each) and problems, in place of earlier ones."""
        self._note(
            "INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?)",
            [
                (_key(folder), os.fsencode(name), record.tobytes(), problem, PIL.__version__)
                for name, record, problem in rows
            ],
        )

    def note_captions(self, folder: Path, rows: Iterable[tuple[str, bytes, str, str]]) -> None:
        """Keep name, stat, caption and encoding, in place of earlier ones."""
        self._note(
            "INSERT OR REPLACE INTO captions VALUES (?, ?, ?, ?, ?)",
            [(_key(folder), os.fsencode(name), stat, caption, encoding) for name, stat, caption, encoding in rows],
        )

    def folders(self) -> list[Path]:
        """The folders of which something is noted.

        Raises:
            sqlite3.Error: the manifest cannot be read.
        """
        query = " UNION ".join(f"SELECT DISTINCT folder FROM {table}" for table in TABLES)
        return sorted(Path(os.fsdecode(key)) for (key,) in self._database.execute(query))

    def forget(self, folders: Sequence[Path]) -> int:
        """Drop what is noted of these folders, and give its room back to the disk; how many files were noted.

        Raises:
            sqlite3.Error: the manifest cannot be written.
        """
        keys = [(os.fsencode(folder),) for folder in folders]
        with self._database:
            count = sum(
                self._database.executemany(f"DELETE FROM {table} WHERE folder = ?", keys).rowcount for table in TABLES
            )
        self._database.execute("VACUUM")
        return count

    def _rows(self, query: str, *values: object, folder: Path) -> Iterator[list[Any]]:
        try:
            cursor = self._database.execute(f"{query} AND folder = ? ORDER BY name", (*values, _key(folder)))
            while rows := cursor.fetchmany(ROWS_AT_A_TIME):
                yield rows
        except sqlite3.Error as error:
            self.damaged |= not isinstance(error, sqlite3.OperationalError)
            log.warning("what is known of the pictures cannot be read (%s); they are looked at anew", error)

    def _note(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Many rows at once. What cannot be kept is looked at again the next time, and that is all."""
        if not rows:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:
            self.damaged |= not isinstance(error, sqlite3.OperationalError)
            log.warning("what was seen of the pictures cannot be kept (%s); they are looked at again next time", error)


@contextmanager
def open_manifest(file: Path | None) -> Iterator[Manifest]:
    """The manifest in a file, or one in memory where there is no file, or it cannot be used."""
    database = _opened(file) if file is not None else None
    with closing(database or _prepared(":memory:")) as connection:
        manifest = Manifest(connection)
        yield manifest
    if manifest.damaged and file is not None:
        with suppress(OSError):  # Windows keeps what another process has open, which will find the damage too
            file.unlink(missing_ok=True)


def settled_before() -> int:
    """Nanoseconds of the clock. Files that were changed before show a further change by their times; later ones may not."""
    return time.time_ns() - RECENT


def trusted_stats(stats_N4: NDArray[np.int64]) -> NDArray[np.int64]:
    """Stats as they are noted: of files that were changed a moment ago without their time, so that they are read once more."""
    noted = stats_N4.copy()
    latest = np.maximum(noted[:, 1], noted[:, 2])
    noted[latest > settled_before(), 1] = NEVER
    return noted


def places_among(names: list[str], known: list[str]) -> NDArray[np.int64]:
    """(N,) the place of each name among known ones; -1 where it is not known."""
    if names == known:
        return np.arange(len(names))
    place_of = {name: place for place, name in enumerate(known)}
    return np.array([place_of.get(name, -1) for name in names], dtype=np.int64)


def _opened(file: Path) -> sqlite3.Connection | None:
    for attempt in ("as it is", "anew"):
        try:
            if attempt == "anew":
                file.unlink()
            file.parent.mkdir(parents=True, exist_ok=True)
            return _prepared(str(file))
        except sqlite3.OperationalError as error:
            reason: Exception = error
            break
        except sqlite3.DatabaseError as error:
            log.warning("%s is damaged (%s); it is made anew", file, error)
            reason = error
        except OSError as error:
            reason = error
            break
    log.warning("%s cannot be used (%s): every picture is looked at anew each time", file, reason)
    return None


def _prepared(file: str) -> sqlite3.Connection:
    connection = sqlite3.connect(file, timeout=PATIENCE)
    try:
        if _layout(connection) != LAYOUT:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if _layout(connection) != LAYOUT:  # another process may have been quicker
                    _make_tables(connection)
        connection.execute("SELECT 1 FROM pictures LIMIT 1").fetchone()
    except sqlite3.Error:
        with suppress(sqlite3.Error):
            connection.close()
        raise
    return connection


def _layout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _make_tables(connection: sqlite3.Connection) -> None:
    for name, columns in TABLES.items():
        connection.execute(f"DROP TABLE IF EXISTS {name}")
        connection.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY (folder, name)) WITHOUT ROWID")
    connection.execute(f"PRAGMA user_version = {LAYOUT}")


def _key(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())
