"""How pictures look: whether two are nearly the same, and whether one is blurred.

Letters: N pictures, H W height and width of a small grey picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CELLS = 16

DEAD_ZONE = 3
"""Levels (of 256) by which neighbours must differ to count: noise and compression change flat parts by as much."""

ALIKE = 0.8
"""Share of the bits that two pictures have in common from which they are nearly the same. Copies that were saved anew, resized,
brightened or labelled share 0.8 and more, drawings of one figure in one stance before other scenes 0.7 at the most."""

FEWEST_BITS = 16
"""Pictures of which less is known are not compared: they are next to empty."""

TILE = 64

BLURRED = 20.0
"""Photographs fall below this by a Gaussian blur of 2 pixels, most drawings by one of 3; sharp ones are above 1000."""

ROWS_AT_A_TIME = 256

Bits = NDArray[np.bool_]


def difference_hash(grey: Image.Image) -> Bits:
    """(2 * CELLS * CELLS,) where brightness rises, and where it falls, from cell to cell of a grid over the picture.

    The dHash of Krawetz 2013, "Kind of Like That" (hackerfactor.com), with flat parts told from slopes either way.
    """
    cells_HW = np.asarray(grey.resize((CELLS + 1, CELLS), Image.Resampling.BOX)).astype(np.int16)
    steps_HW = np.diff(cells_HW, axis=1)
    return np.concatenate([(steps_HW > DEAD_ZONE).ravel(), (steps_HW < -DEAD_ZONE).ravel()])


def earlier_lookalikes(hashes: Sequence[Bits]) -> list[int | None]:
    """For each of N pictures the first one before it that looks nearly the same."""
    if not hashes:
        return []
    bits_ND = np.stack(hashes).astype(np.float32)
    counts_N = bits_ND.sum(axis=1)
    found: list[int | None] = []
    for start in range(0, len(bits_ND), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        shared_RN = bits_ND[rows] @ bits_ND.T
        either_RN = counts_N[rows, None] + counts_N - shared_RN
        alike_RN = np.tril((either_RN >= FEWEST_BITS) & (shared_RN >= ALIKE * either_RN), start - 1)
        found += [int(row.argmax()) if row.any() else None for row in alike_RN]
    return found


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian in the sharpest tile: of a portrait before a blurred background, that of the face.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study". It falls with contrast as
    with focus: an empty picture has none.
    """
    levels_HW = np.asarray(grey).astype(np.int16)
    if min(levels_HW.shape) < 3:
        return 0.0
    sides_HW = levels_HW[:-2, 1:-1] + levels_HW[2:, 1:-1] + levels_HW[1:-1, :-2] + levels_HW[1:-1, 2:]
    laplacian_HW = (sides_HW - 4 * levels_HW[1:-1, 1:-1]).astype(np.float32)
    height, width = laplacian_HW.shape
    rows, columns = max(1, height // TILE), max(1, width // TILE)
    tiles = laplacian_HW[: height // rows * rows, : width // columns * columns]
    return float(tiles.reshape(rows, height // rows, columns, width // columns).var(axis=(1, 3)).max())
