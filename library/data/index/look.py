"""Looking at pictures: each is read, hashed and decoded once in its life, and what was seen is noted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from library.core.hashing import content_hash
from library.core.runtime import available_cores
from library.data.index.folder import Folder, Listing
from library.data.index.manifest import Manifest, places_among, trusted_stats
from library.data.index.record import RECORD
from library.data.index.siblings import extension_of
from library.data.pictures.endings import kind_of
from library.data.pictures.images import PictureError, inspect, picture_size
from library.data.pictures.looks import SIDES, at_side, difference_hash, exposure, sharpness_by_side, spread
from library.data.pictures.room import Room

T = TypeVar("T")
R = TypeVar("R")

FEW_FILES, FEW_BYTES = 10_000, 1 << 30
"""Up to so many files and bytes a folder is read anew each time, and what its stats say of it is not relied on."""

NOTED_TOGETHER = 512
"""Pictures after which what was seen is kept, so that a look that was broken off goes on there."""

AHEAD = 64
"""Files that are given to the threads before they are waited for."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What is known of N pictures of a folder."""

    records_N: NDArray[np.void]
    """Of RECORD; of a picture with a problem nothing in it counts."""
    problems: dict[int, str]
    """By place, why a file is no picture that can be used."""


@dataclass(frozen=True)
class Seen:
    """What one look gave."""

    record: NDArray[np.void]
    problem: str | None
    lasting: bool = True
    """Whether it is worth noting: a file that cannot be read may be readable the next time."""


@dataclass(frozen=True)
class Looker:
    """Looks at files of folders.

    Args:
        manifest: what was seen before; what is seen now is added.
        progress: show bars with the time left.
    """

    manifest: Manifest
    progress: bool = False

    def look(self, folder: Folder, listing: Listing) -> Looked:
        """At N pictures of a folder."""
        known = self.manifest.pictures(folder.root)
        places_N = places_among(listing.names, known.names)
        known_N = places_N >= 0
        records_N = known.records_N
        if known.names != listing.names:
            records_N = np.zeros(len(listing), RECORD)
            records_N[known_N] = known.records_N[places_N[known_N]]
        places = np.flatnonzero(known_N).tolist() if known.problems else []
        problems = {place: found for place in places if (found := known.problems.get(listing.names[place])) is not None}
        again_N = ~known_N | (records_N["stat"] != listing.stats_N4).any(axis=1) | is_small(listing)
        again = np.flatnonzero(again_N).tolist()

        def task(place: int) -> Seen:
            former = records_N[place : place + 1].copy() if known_N[place] else None
            return self._look(folder, listing.names[place], former, problems.get(place))

        trusted_N4 = trusted_stats(listing.stats_N4)
        noting: list[tuple[str, NDArray[np.void], str | None]] = []
        with (
            ThreadPoolExecutor(max(2, available_cores())) as pool,
            tqdm(again, "looking at pictures", unit="picture", disable=not self.progress or not again) as bar,
        ):
            for place, seen in zip(bar, ahead(pool, task, again)):
                records_N[place] = seen.record[0]
                records_N[place]["stat"] = trusted_N4[place]
                problems.pop(place, None)
                if seen.problem is not None:
                    problems[place] = seen.problem
                if seen.lasting:
                    noting.append((listing.names[place], records_N[place : place + 1], seen.problem))
                if len(noting) == NOTED_TOGETHER:
                    self.manifest.note_pictures(folder.root, noting)
                    noting.clear()
        self.manifest.note_pictures(folder.root, noting)
        return Looked(records_N, problems)

    def _look(self, folder: Folder, name: str, former: NDArray[np.void] | None, former_problem: str | None) -> Seen:
        record = np.zeros(1, RECORD)
        try:
            data = folder.read(name)
        except OSError as error:
            return Seen(record, f"cannot be read ({error.strerror or error})", lasting=False)
        content = np.void(bytes.fromhex(content_hash(data)))
        if former is not None and former["content"][0] == content:
            return Seen(former, former_problem)
        record["content"] = content
        try:
            record["width"], record["height"] = size = picture_size(data)
            with ROOM.taken(size):
                _judge(data, extension_of(name), record)
        except PictureError as error:
            return Seen(record, str(error))
        return Seen(record, None)


ROOM = Room()
"""Of the process."""


def is_small(listing: Listing) -> bool:
    """Whether reading all of the files again costs next to nothing."""
    return len(listing) <= FEW_FILES and listing.nbytes <= FEW_BYTES


def ahead(pool: ThreadPoolExecutor, task: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The task done on every item, in order, by threads that are a few items ahead of who takes them."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(task, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _judge(data: bytes, ending: str, record: NDArray[np.void]) -> None:
    """Decode the picture and note how it looks."""
    seen = inspect(data, SIDES[0] ** 2)
    for name in ("animated", "profile_broken", "transparent", "invisible"):
        record[name] = getattr(seen, name)
    record["true_kind"] = "" if seen.kind == kind_of(ending) else seen.kind
    record["sharpness"] = list(sharpness_by_side(seen.grey).values())
    record["exposure"] = exposure(seen.grey)
    record["spread"] = spread(seen.grey)
    record["bits"] = np.packbits(
        difference_hash(at_side(seen.grey, SIDES[-1]))
    )  # small, so that enlarged copies are known
