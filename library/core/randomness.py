"""Randomness as a function: every draw is computed from (seed, stream name, index), never from a running state.

So a resumed run, another number of workers, or another number of processes draws the same numbers.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, stream: str, *index: int) -> int:
    """A 63-bit seed for the draw `index` of `stream` in a run with `seed`."""
    words = ":".join(map(str, (seed, stream, *index)))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1


def python_random(seed: int, stream: str, *index: int) -> random.Random:
    """Python's generator for that draw: choices, shuffles, crops."""
    return random.Random(derived_seed(seed, stream, *index))


def torch_generator(seed: int, stream: str, *index: int) -> torch.Generator:
    """A CPU generator for that draw. The CPU's numbers are the same on every machine and device."""
    import torch

    return torch.Generator("cpu").manual_seed(derived_seed(seed, stream, *index))
