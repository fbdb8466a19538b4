"""The base pictures, drawn once into an array on disk by several processes."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from library.demo.drawing import draw
from library.demo.look import random_look


def base_pictures(count: int, path: Path, workers: int) -> NDArray[np.uint8]:
    """Pictures of `random_look(0) ... random_look(count - 1)`, (count, 64, 64, 3), read from `path` once drawn."""
    if not path.exists():
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            pictures = np.stack(pool.map(_pixels, range(count), chunksize=64))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, pictures)
    pictures = np.load(path, mmap_mode="r")
    assert pictures.shape == (count, 64, 64, 3), f"{path} holds {pictures.shape}: drawn for another count"
    return pictures


def _pixels(seed: int) -> NDArray[np.uint8]:
    return np.asarray(draw(random_look(seed), 64))
