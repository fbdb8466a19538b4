"""Two processes write and read the same cache entries at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from library.data.cache.store import TensorCache

ROOT = Path(__file__).resolve().parents[3]
KEYS = [f"{number:02d}key" for number in range(8)]
ROUNDS = 10

WRITER = f"""
import sys, torch
from pathlib import Path
from library.data.cache.store import TensorCache
cache = TensorCache(Path(sys.argv[1]))
for _ in range({ROUNDS}):
    for number, key in enumerate({KEYS}):
        cache.put(key, {{"latents": torch.full((4, 64), float(number))}})
        found = cache.get(key)
        assert found is not None and bool((found["latents"] == number).all()), key
"""


def test_writers_of_the_same_entries_do_not_disturb_one_another(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        _, said = writer.communicate(timeout=240)
        assert (writer.returncode, said) == (0, "")
    cache = TensorCache(tmp_path)
    for number, key in enumerate(KEYS):
        found = cache.get(key)
        assert found is not None
        assert torch.equal(found["latents"], torch.full((4, 64), float(number)))
    assert sorted(file.stem for file in tmp_path.rglob("*") if file.is_file()) == KEYS, "no temporary file is left"
