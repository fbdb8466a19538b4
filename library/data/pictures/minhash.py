"""Finding pairs of similar sets of bits among many without comparing every two: MinHash and banding.

Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
chapter 3. Of two sets, the chance that the first member in a random order is the same is the share of members that they
have in common (Jaccard).

Letters: N sets, B bytes of a set, D members that it may have, R sets at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BANDS = 32

ORDERS = 8
"""Random orders in a band. Sets that have a share s in common meet in a band with chance s**ORDERS, and in one of all with
1 - (1 - s**ORDERS)**BANDS: 0.997 at 0.8, 0.04 at 0.43, 0.002 at 0.3."""

NEIGHBOURS = 8
"""Of the sets that meet in a band each is paired with so many before it, and with as many that come first of all: in a film
the last frames look alike, of a picture that was saved often the first is wanted."""

SETS_AT_A_TIME = 8192

SEED = 2166136261

Places = NDArray[np.int64]


def candidate_pairs(packed_NB: NDArray[np.uint8], fewest_bits: int) -> Iterator[tuple[Places, Places]]:
    """Pairs that are worth a comparison, as (later, earlier) places; some come more than once.

    Within what is yielded at a time no `later` comes twice.

    Args:
        packed_NB: the sets as `numpy.packbits` packs them.
        fewest_bits: sets of fewer are never paired.
    """
    places = np.flatnonzero(np.concatenate([
        np.unpackbits(rows, axis=1).sum(axis=1, dtype=np.int64) >= fewest_bits for rows in _in_parts(packed_NB)
    ]))  # fmt: skip
    rng = np.random.default_rng(SEED)
    members = packed_NB.shape[1] * 8
    orders = [[rng.permutation(members) for _ in range(ORDERS)] for _ in range(BANDS)]
    keys = [_keys(rows, orders) for rows in _in_parts(packed_NB[places])]
    for band in range(BANDS):
        yield from _pairs(np.concatenate([part[band] for part in keys]), places)


def _in_parts(packed_NB: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """At least one part, which may be empty."""
    for start in range(0, max(1, len(packed_NB)), SETS_AT_A_TIME):
        yield packed_NB[start : start + SETS_AT_A_TIME]


def _keys(packed_RB: NDArray[np.uint8], orders: list[list[Places]]) -> NDArray[np.uint32]:
    """(bands, R) what has to be equal for sets to meet."""
    bits_RD = np.unpackbits(packed_RB, axis=1).view(np.bool_)
    keys = np.full((len(orders), len(bits_RD)), SEED, np.uint32)
    for band, of_band in enumerate(orders):
        for order in of_band:
            keys[band] = (keys[band] ^ _first_members(bits_RD, order)) * np.uint32(16777619)  # FNV-1a's step
    return keys


def _first_members(bits_RD: NDArray[np.bool_], order: Places) -> NDArray[np.uint32]:
    """(R,) place in the order of the first member of each set; sets are not empty."""
    first = np.zeros(len(bits_RD), np.uint32)
    left, start, width = np.arange(len(bits_RD)), 0, 16  # most are found among the first few
    while len(left) and start < len(order):
        part = bits_RD[left[:, None], order[start : start + width]] if start else bits_RD[:, order[:width]]
        place = part.argmax(axis=1)
        hit = part[np.arange(len(part)), place]
        first[left[hit]] = start + place[hit]
        left, start, width = left[~hit], start + width, 2 * width
    return first


def _pairs(keys: NDArray[np.uint32], places: Places) -> Iterator[tuple[Places, Places]]:
    """Pairs of one band; `places` of the sets are in ascending order."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[True, keys[order][1:] != keys[order][:-1]]) if len(order) else order
    sizes = np.diff(np.r_[starts, len(order)])
    first = np.repeat(starts, sizes)
    rank = np.arange(len(order)) - first
    several = np.repeat(sizes, sizes) > 1
    sorted_places, first, rank = places[order], first[several], rank[several]
    for back in range(1, NEIGHBOURS + 1):
        later = rank >= back
        at = first[later] + rank[later]
        yield sorted_places[at], sorted_places[at - back]
    for leader in range(NEIGHBOURS):
        later = rank > leader + NEIGHBOURS
        at = first[later] + rank[later]
        yield sorted_places[at], sorted_places[first[later] + leader]
