"""Several processes write, read, prune and die at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from library.data.cache.keys import text_key
from library.data.cache.pruning import prune
from library.data.cache.store import TensorCache
from tests.data.cache.shard_files import records

ROOT = Path(__file__).resolve().parents[3]

PREAMBLE = """
import sys, time
from pathlib import Path
import torch
from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache
folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = TensorCache(folder)
def value(number):
    return {"latents": torch.full((4, 64), float(number))}
"""

FILLER = """
for number in range(first, last):
    key = text_key(str(number), "model")
    if cache.get(key) is None:
        cache.put(key, value(number))
    assert torch.equal(cache.get(key)["latents"], value(number)["latents"]), number
cache.flush()
"""

MORTAL = """
for number in range(first, last):
    cache.put(text_key(str(number), "model"), value(number))
    print(number, flush=True)
"""


def process(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_holds(folder: Path, numbers: range) -> None:
    cache = TensorCache(folder)
    for number in numbers:
        found = cache.get(text_key(str(number), "model"))
        assert found is not None and torch.equal(found["latents"], torch.full((4, 64), float(number))), number


@pytest.mark.parametrize("count", [2, 4])
def test_writers_of_overlapping_entries_do_not_disturb_one_another(tmp_path: Path, count: int) -> None:
    writers = [process(FILLER, tmp_path, 100 * place, 100 * place + 200) for place in range(count)]
    for writer in writers:
        _, said = writer.communicate(timeout=240)
        assert (writer.returncode, said) == (0, "")
    assert_holds(tmp_path, range(100 * (count + 1)))
    assert len(list(tmp_path.glob("*.data"))) <= count
    assert {path.suffix for path in tmp_path.iterdir()} == {".data", ".index"}, "no other file is left"


def test_killed_in_the_middle_it_has_lost_seconds_and_the_next_goes_on(tmp_path: Path) -> None:
    """Whatever the dead one had made known is whole, its shard is taken up again, and nothing of it hinders anybody."""
    for _ in range(2):
        mortal = process(MORTAL, tmp_path, 0, 100_000)
        assert mortal.stdout is not None
        while int(mortal.stdout.readline()) < 300:
            pass
        mortal.send_signal(signal.SIGKILL)
        mortal.communicate()
    known = records(tmp_path)
    cache = TensorCache(tmp_path)
    assert known and all(cache.get(record.key) is not None for record in known)
    filler = process(FILLER, tmp_path, 0, 400)
    assert filler.communicate(timeout=120)[1] == ""
    assert_holds(tmp_path, range(400))
    assert len(list(tmp_path.glob("*.data"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="what is being read cannot be removed there")
def test_pruned_while_others_read_and_write(tmp_path: Path) -> None:
    """Nothing that is there is ever missed, although the shards under the readers are written anew again and again."""
    for place in range(3):
        cache = TensorCache(tmp_path)
        held = TensorCache(tmp_path)
        held.put(
            text_key(f"held {place}", "model"), {"latents": torch.zeros(1)}
        )  # so that each fills a shard of its own
        for number in range(50):
            cache.put(text_key(str(number), "model"), {"latents": torch.full((4, 64), float(number))})
        cache.flush()
        held.flush()
    reader, writer = TensorCache(tmp_path), process(FILLER, tmp_path, 50, 1500)
    rng, rounds = np.random.default_rng(0), 0
    while writer.poll() is None or rounds < 5:
        done = [each.done for each in prune(tmp_path, unused_for=None)]
        rounds += 1
        for number in rng.integers(0, 50, 40).tolist():
            found = reader.get(text_key(str(number), "model"))
            assert found is not None and torch.equal(found["latents"], torch.full((4, 64), float(number)))
        other = TensorCache(tmp_path)  # leaves another small shard
        other.put(text_key(f"small {rounds}", "model"), {"latents": torch.zeros(1)})
        other.flush()
        time.sleep(0.01)
        assert set(done) <= {"written anew as few"}
    assert writer.communicate()[1] == ""
    assert_holds(tmp_path, range(1500))
    assert len(list(prune(tmp_path, unused_for=None))) <= 1 and not list(prune(tmp_path, unused_for=None))
    assert_holds(tmp_path, range(1500))
    assert len(records(tmp_path)) == 1500 + 3 + rounds, "each entry once"
