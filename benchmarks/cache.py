"""The cache on disk at 1,000, 100,000 and 1,000,000 entries: filled, opened, asked, read in both orders, and what memory it takes.

    python -m benchmarks.cache --entries 1000 100000 1000000 --bytes 4096 --work /tmp

Reading stands beside plain reading: `os.preadv` of the same bytes at the same places in the same order, in turns in one run, all
from the system's memory, so that no disk hides what the cache itself takes. `--cold` drops the files from that memory before each
turn (Linux), so that the disk is read. Entries hold a mean and a deviation in fp32, as those of pictures do.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from library.data.cache.contents import rows_of_shard
from library.data.cache.reading import ShardReader
from library.data.cache.shards import HEAD, shard_named, shards_in
from library.data.cache.store import TensorCache, Tensors

READS = 20_000
"""Entries read in a turn, at most."""


def main() -> None:
    """A table with a row for each number of entries."""
    arguments = parse()
    if arguments.fill is not None:
        begun = time.time()
        fill(TensorCache(arguments.work), range(*arguments.fill), arguments.bytes)
        print(begun, time.time())
        return
    print(
        "| entries | size | filled by 1 process | by 4 | opened | memory an entry | asked for | in order | plain | at random | plain |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for count in arguments.entries:
        print("| " + " | ".join(measured(arguments, count)) + " |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--bytes", type=int, default=4096, help="values of an entry, in bytes")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="read from the disk")
    parser.add_argument("--work", type=Path, default=Path("cache_benchmark"), help="where shards are made, and removed")
    parser.add_argument("--fill", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(arguments: argparse.Namespace, count: int) -> Iterator[str]:
    """The cells of one row."""
    folder: Path = arguments.work / f"cache-benchmark-{os.getpid()}"
    try:
        alone = in_processes(1, folder, count, arguments.bytes)
        size = sum(path.stat().st_size for path in folder.iterdir())
        shutil.rmtree(folder)
        together = in_processes(4, folder, count, arguments.bytes)
        keys = [key(number) for number in range(count)]
        before = resident()
        reader = ShardReader(folder)
        opened = timed(reader.refresh)
        grown = resident() - before
        assert reader.entries == count
        cache = TensorCache(folder)
        asked = timed(lambda: cache.sizes(keys))
        yield from (f"{count:,}", f"{size / 1e6:,.0f} MB", rate(count, alone), rate(count, together))
        yield from (
            f"{opened:.3f} s",
            f"{reader.nbytes / count:.0f} bytes ({grown / count:.0f} resident)",
            rate(count, asked),
        )
        for shuffled in (False, True):
            yield from read_both(cache, folder, shuffled, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def in_processes(processes: int, folder: Path, count: int, size: int) -> float:
    """Seconds from when the first of so many processes begins to fill the folder with its share until the last has ended."""
    borders = np.linspace(0, count, processes + 1).astype(int).tolist()
    command = [sys.executable, "-m", "benchmarks.cache", "--bytes", str(size), "--work", str(folder), "--fill"]
    shares = [
        subprocess.Popen([*command, str(a), str(b)], stdout=subprocess.PIPE, text=True) for a, b in pairwise(borders)
    ]
    spans = [tuple(map(float, share.communicate()[0].split())) for share in shares]
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def fill(cache: TensorCache, numbers: Sequence[int], size: int) -> None:
    """Put entries, each with values of its own."""
    values = torch.zeros(2, size // 8)
    for number in numbers:
        values.fill_(float(number))
        cache.put(key(number), {"mean": values[0], "std": values[1]})
    cache.flush()


def key(number: int) -> str:
    """Keys are hashes; these are as evenly spread."""
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276B) % (1 << 160):040x}"


def read_both(cache: TensorCache, folder: Path, shuffled: bool, arguments: argparse.Namespace) -> Iterator[str]:
    """Rates of the cache, with its share of the plain rate, and of plain reading."""
    places = places_of(folder)
    order = np.random.default_rng(0).permutation(len(places)) if shuffled else np.arange(len(places))
    chosen = [places[place] for place in order[:READS]]
    read = sum(length for _, _, _, length in chosen)

    def ours() -> None:
        for name, _, _, _ in chosen:
            found: Tensors | None = cache.get(name)
            assert found is not None

    files = {path: os.open(path, os.O_RDONLY) for path in {path for _, path, _, _ in chosen}}

    def plain() -> None:
        for _, path, offset, length in chosen:
            assert os.preadv(files[path], [bytearray(length)], offset) == length

    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(arguments.turns + 1):
        for side, task in (("ours", ours), ("plain", plain)):
            if arguments.cold:
                drop(folder)
            spent = timed(task)
            if turn:  # the first warms up
                seconds[side].append(spent)
    for file in files.values():
        os.close(file)
    per_second = {side: read / statistics.median(turns) / 1e6 for side, turns in seconds.items()}
    each = statistics.median(seconds["ours"]) / len(chosen)
    yield f"{per_second['ours']:,.0f} MB/s ({each * 1e6:.0f} µs each)"
    yield f"{per_second['plain']:,.0f} MB/s"


def places_of(folder: Path) -> list[tuple[str, Path, int, int]]:
    """Key, file, offset and bytes of every record, in the order of the files."""
    found = []
    for name in shards_in(folder):
        shard = shard_named(folder, name)
        rows = rows_of_shard(shard)
        keys = rows["key"].tolist()
        lengths = (rows["length"] + HEAD.size).tolist()
        found += [(bytes(k).hex(), shard.data, o, n) for k, o, n in zip(keys, rows["offset"].tolist(), lengths)]
    return found


def drop(folder: Path) -> None:
    """Let the system forget the contents of the files."""
    for path in folder.glob("*.data"):
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def resident() -> int:
    """Bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def timed(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def rate(count: int, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s"


if __name__ == "__main__":
    main()
