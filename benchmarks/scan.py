"""Indexing many pictures: from the folder to the trainer's data, cold and warm, with the memory that they take.

    python -m benchmarks.scan --work /tmp/scan --entries 1000 100000 1000000

Each picture is a real PNG of 32x32 pixels of noise with a caption beside it, all in one folder. Cold is without a manifest: every file is
read, hashed and decoded. Warm is the second start: files are only listed and compared. Every figure is of a process of its own; the
files are in the system's cache both times, so cold tells of the work, not of the disk.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

SIDE = 32


def main() -> None:
    """A line for each number of entries, cold and warm."""
    arguments = parse()
    if arguments.measure:
        measure(arguments.measure, arguments.manifest)
        return
    print(
        "| pictures | | pictures found | ready to train | memory a picture, bytes | peak, MB |\n|---|---|---|---|---|---|"
    )
    for entries in arguments.entries:
        folder = make(arguments.work, entries)
        manifest = arguments.work / f"{entries}.sqlite"
        manifest.unlink(missing_ok=True)
        for state in ("cold", "warm"):
            command = [sys.executable, "-m", "benchmarks.scan", "--measure", str(folder), "--manifest", str(manifest)]
            told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(
                f"| {told['pictures']:,} | {state} | {told['found']:.1f} s | {told['ready']:.1f} s | {told['bytes']:.0f} | "
                f"{told['peak']:.0f} |",
                flush=True,
            )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--work", type=Path, default=Path("scan"), help="where the pictures are kept")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make(work: Path, entries: int) -> Path:
    """The folder of pictures, made where it is not there yet."""
    folder = work / f"pictures-{entries}"
    folder.mkdir(parents=True, exist_ok=True)
    done = work / f"pictures-{entries}.done"
    if not done.exists():
        rng = np.random.default_rng(0)
        for number in tqdm(range(entries), "making pictures"):
            (folder / f"{number:07d}.png").write_bytes(png(rng.bytes(SIDE * SIDE)))
            (folder / f"{number:07d}.txt").write_text(f"hero, number {number}, tag{number % 97}, tag{number % 89}")
        done.touch()
    return folder


def png(levels: bytes) -> bytes:
    """A grey PNG, unpacked so that making a million is quick."""
    rows = b"".join(b"\0" + levels[start : start + SIDE] for start in range(0, len(levels), SIDE))
    chunks = (
        b"IHDR" + struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0),
        b"IDAT" + zlib.compress(rows, 0),
        b"IEND",
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


def anonymous(process: psutil.Process) -> int:
    """Bytes of memory of the process alone; names and captions lie in a mapped file, which the system may drop and read again."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def measure(folder: Path, manifest: Path) -> None:
    """What a run does between reading its configuration and loading its model."""
    import torch

    from library.config.dataset import resolve_datasets
    from library.config.load import load_config
    from library.core.memory import give_back_memory
    from library.data.checks.preflight import preflight
    from library.data.dataset import build_training_data

    process = psutil.Process()
    words = (
        f"--pretrained_model_name_or_path demo/model --train_data_dir {folder} --resolution {SIDE} --trigger_word hero"
    )
    datasets, _ = resolve_datasets(load_config(words.split()).config)
    torch.zeros(1)
    before = anonymous(process)
    started = time.perf_counter()
    survey = preflight(datasets, manifest=manifest, progress=True)
    found = time.perf_counter() - started
    data = build_training_data(datasets, survey.pictures, seed=0, stride=8)
    del survey
    give_back_memory()
    ready = time.perf_counter() - started
    assert data[0, 0].examples
    import resource

    print(
        json.dumps(
            {
                "pictures": len(data.material.pictures),
                "found": found,
                "ready": ready,
                "bytes": (anonymous(process) - before) / len(data.material.pictures),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
