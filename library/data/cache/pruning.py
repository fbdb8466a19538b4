"""Removing from the caches what is of no use, while other processes read and write."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from library.core.disk import writing
from library.data.cache.appending import Appender
from library.data.cache.claims import Claim, claim, is_anothers, release, remove
from library.data.cache.contents import (
    FORMER_ENTRY,
    Contents,
    ShardFacts,
    contents,
    first_of_each_key,
    keys_of,
    records,
    rows_of_shard,
)
from library.data.cache.shards import SHARD_BYTES, Shard

SMALL = SHARD_BYTES // 4
"""Shards below this are put together."""

ANOTHERS = "kept, being another user's"
IN_USE = "kept, being in use or on a disk without locks"
"""Why something is left."""

WASTEFUL = 0.1
"""Share of a shard's data from which on it is written anew without what is of no use."""


@dataclass(frozen=True)
class Pruned:
    """What was done, or would be."""

    done: str
    """removed, written anew, ..."""
    what: str
    size: int
    """Bytes that it frees."""


def prune(
    folder: Path,
    *,
    unused_for: float | None,
    removed_first: Sequence[Shard] = (),
    dry_run: bool = False,
    progress: bool = False,
) -> Iterator[Pruned]:
    """Remove what is of no use from a folder of shards, and put small shards together.

    Args:
        unused_for: seconds after which a shard that nobody has used goes.
        removed_first: shards that go in any case, to make room.
        dry_run: only tell.
        progress: show a bar while shards are written anew.

    Raises:
        UserError: something cannot be read, written or removed.
    """
    there = contents(folder)
    with writing(folder):
        yield from _without_leftovers(there, dry_run)
        oldest = -np.inf if unused_for is None else time.time() - unused_for
        unwanted = [each for each in there.shards if each.used < oldest or each.shard in removed_first]
        for facts in unwanted:
            if is_anothers(facts.shard):
                yield Pruned(ANOTHERS, str(facts.shard.data), 0)
                continue
            claimed = None if dry_run else claim(facts.shard)
            kept = ""
            if claimed is not None:
                kept = "" if _could_remove(claimed) else ANOTHERS
            elif not dry_run and facts.shard.index.exists():
                kept = IN_USE
            yield Pruned(kept or "removed", str(facts.shard.data), 0 if kept else facts.size)
        yield from _compacted([each for each in there.shards if each not in unwanted], dry_run, progress)


def least_used(shards: Iterable[ShardFacts], max_size: int) -> list[Shard]:
    """The shards that must go for the others to have no more than so many bytes, the least recently used first."""
    kept = 0
    gone = []
    for facts in sorted(shards, key=lambda each: -each.used):
        kept += facts.size
        if kept > max_size:
            gone.append(facts.shard)
    return gone[::-1]


def _could_remove(claimed: Claim) -> bool:
    """Remove it; False in a folder where each may remove his own files only."""
    try:
        remove(claimed)
    except PermissionError:
        return False
    return True


def _without_leftovers(there: Contents, dry_run: bool) -> Iterator[Pruned]:
    for path in there.strays:
        with suppress(FileNotFoundError):  # removed since
            size = path.stat().st_size
            try:
                if not dry_run:
                    path.unlink()
            except PermissionError:
                yield Pruned(ANOTHERS, str(path), 0)
            else:
                yield Pruned("removed, half a shard", str(path), size)
    files = [path for folder in there.former for path in folder.iterdir() if FORMER_ENTRY.fullmatch(path.name)]
    size = sum(path.stat().st_size for path in files)
    if not dry_run:
        for path in files:
            path.unlink(missing_ok=True)
        for folder in there.former:
            if not any(folder.iterdir()):
                folder.rmdir()
    if files:
        yield Pruned("removed, entries of a former layout", f"{len(files)} files in {there.folder}", size)


def _compacted(shards: list[ShardFacts], dry_run: bool, progress: bool) -> Iterator[Pruned]:
    """Shards with much of no use, and small ones, written anew as few."""
    small = [each for each in shards if each.size < SMALL]
    chosen = [each for each in shards if each.useless > WASTEFUL * each.size or (len(small) > 1 and each in small)]
    others = [each for each in chosen if is_anothers(each.shard)]
    yield from (Pruned(ANOTHERS, str(each.shard.data), 0) for each in others)
    chosen = [each for each in chosen if each not in others]
    if dry_run:
        claimed = {}
    else:
        claims = ((each, claim(each.shard)) for each in sorted(chosen, key=lambda each: each.used))
        claimed = {each: taken for each, taken in claims if taken is not None}
        chosen = list(claimed)
    if len(chosen) == 1 and chosen[0].useless <= WASTEFUL * chosen[0].size:
        for taken in claimed.values():
            release(taken)
        return
    if claimed:
        _rewrite(claimed, [each.shard for each in shards if each not in claimed], progress)
    if chosen:
        names = ", ".join(each.shard.data.stem for each in chosen)
        yield Pruned("written anew as few", names, sum(each.useless for each in chosen))


def _rewrite(claimed: dict[ShardFacts, Claim], others: Sequence[Shard], progress: bool) -> None:
    """Write the useful records of the claimed shards to new ones, then remove the claimed ones."""
    elsewhere = np.concatenate([np.zeros(0, "S20"), *(keys_of(rows_of_shard(shard)) for shard in others)])
    shards = [each.shard for each in claimed]
    rows = [rows_of_shard(shard) for shard in shards]
    kept = {
        shard: its_rows[first & ~np.isin(keys_of(its_rows), elsewhere)]
        for shard, its_rows, first in zip(shards, rows, first_of_each_key(rows))
    }
    folder = shards[0].data.parent
    appender, made = Appender(folder, fresh=True), set()
    done = False
    try:
        for _, row, payload in tqdm(
            records(kept), "writing anew", sum(map(len, kept.values())), unit="entry", disable=not progress
        ):
            if payload is not None:
                appender.append(row["key"].tobytes(), payload)
                made.add(appender.shard)
        done = True
    finally:
        appender.close()
        for taken in claimed.values():
            (_could_remove if done else release)(taken)
    used = max(each.used for each in claimed)
    for new in made:
        if new is not None:
            os.utime(new.data, (used, used))
