"""Randomness as a function: every draw is computed from (seed, stream name, index), never from a running state.

So a resumed run, another number of workers, or another number of processes draws the same numbers.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

ROUNDS_A_BIT = 6
"""Rounds of a shuffle for each bit of its size: what its authors' bound asks for, and then some."""


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


@dataclass(frozen=True)
class Permutation:
    """A shuffle of the numbers below `size`, of which any entry is computed by itself: nothing as long as the list is kept.

    The swap-or-not shuffle of Hoang, Morris and Rogaway 2012, "An Enciphering Scheme Based on a Card Shuffle": in each round a
    number is paired with (pivot - number) modulo size, and a bit that hangs on the larger of the two tells whether they change places.
    """

    size: int
    pivots_R: NDArray[np.int64]
    keys_R: NDArray[np.uint64]

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers at the given places."""
        numbers = places
        for pivot, key in zip(self.pivots_R, self.keys_R):
            partners = (pivot - numbers) % self.size
            swapped = _mixed(np.maximum(numbers, partners).astype(np.uint64) ^ key) & np.uint64(1)
            numbers = np.where(swapped, partners, numbers)
        return numbers


def permutation(size: int, seed: int, stream: str, *index: int) -> Permutation:
    """The shuffle of `size` numbers for that draw."""
    rng = python_random(seed, stream, *index)
    rounds = ROUNDS_A_BIT * max(1, size.bit_length())
    pivots = [rng.randrange(size) for _ in range(rounds)]
    keys = [rng.getrandbits(64) for _ in range(rounds)]
    return Permutation(size, np.array(pivots, dtype=np.int64), np.array(keys, dtype=np.uint64))


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result hangs on every bit of the number: the finaliser of Stafford's variant 13, as in SplitMix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
