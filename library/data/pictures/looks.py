"""How pictures look: whether two are nearly the same, and whether one is blurred, dark, over-exposed or empty.

Letters: N pictures, H W height and width of a small grey picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from library.data.pictures.minhash import candidate_pairs

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

SIDES = (1024, 512, 256, 128, 64)
"""At which sharpness is judged: square roots of areas in pixels."""

EXPOSURE_SIDE = 256

SHADOW, WHITE = 96, 250
"""Levels: what is below the first is dark, what is from the second on is white."""

NEXT_TO_ALL = 0.9
"""Share of white from which a picture is over-exposed where nothing in it is dark, wherever the rest lies."""

EMPTY = 8.0
"""Levels of spread. A flat tone with a sensor's noise has 5 of them, a photograph that was exposed six stops too long 3, one circle drawn
in a thin line of 35 levels 26."""

OUTERMOST = 0.1
"""Percent of a picture's pixels at either end that its spread leaves out."""

CELL = 8

STROKE = 5
"""Pixels, at EXPOSURE_SIDE; what is narrower may be a line of a drawing."""

EXACT_UP_TO = 4000
"""Pictures of which every two are compared; of more, those that a hash brings together."""

ROWS_AT_A_TIME = 256

Bits = NDArray[np.bool_]


class Exposure(NamedTuple):
    """Shares, from 0 to 1, that tell how a picture was exposed."""

    dark: float
    """Of the picture: below SHADOW."""
    white: float
    """Of the picture: from WHITE on."""
    torn: float
    """Of the cells that are not white altogether, those that are partly: light cut off everywhere, not a white background."""
    broad: float
    """Of what is not white, what is left without thin strokes: next to none of a drawing in lines."""
    darkest: float
    """Level from 0 to 1 below which only OUTERMOST of the pixels lie, before the picture is made smaller, which pales thin strokes."""


def difference_hash(grey: Image.Image) -> Bits:
    """(2 * CELLS * CELLS,) where brightness rises, and where it falls, from cell to cell of a grid over the picture.

    The dHash of Krawetz 2013, "Kind of Like That" (hackerfactor.com), with flat parts told from slopes either way.
    """
    cells_HW = np.asarray(grey.resize((CELLS + 1, CELLS), Image.Resampling.BOX)).astype(np.int16)
    steps_HW = np.diff(cells_HW, axis=1)
    return np.concatenate([(steps_HW > DEAD_ZONE).ravel(), (steps_HW < -DEAD_ZONE).ravel()])


def earlier_lookalikes(hashes: Sequence[Bits] | Bits) -> list[int | None]:
    """For each of N pictures one before it that looks nearly the same: the first, of up to EXACT_UP_TO pictures.

    Of more, the first of those compared with it; a copy that shares ALIKE of the bits or more is missed once in hundreds.
    """
    if len(hashes) == 0:
        return []
    if len(hashes) > EXACT_UP_TO:
        return _lookalikes_among_many(hashes)
    bits_ND = np.stack(list(hashes)).astype(np.float32)
    counts_N = bits_ND.sum(axis=1)
    found: list[int | None] = []
    for start in range(0, len(bits_ND), ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        shared_RN = bits_ND[rows] @ bits_ND.T
        alike_RN = np.tril(_alike(shared_RN, counts_N[rows, None], counts_N), start - 1)
        found += [int(row.argmax()) if row.any() else None for row in alike_RN]
    return found


def _lookalikes_among_many(hashes: Sequence[Bits] | Bits) -> list[int | None]:
    packed_NB = np.stack([np.packbits(bits) for bits in hashes])
    ones = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(axis=1)
    words_NW = packed_NB.view(np.uint16)
    counts_N = ones[words_NW].sum(axis=1)
    first_N = np.full(len(hashes), len(hashes))
    for later, earlier in candidate_pairs(packed_NB, fewest_bits=math.ceil(ALIKE * FEWEST_BITS)):
        better = earlier < first_N[later]
        later, earlier = later[better], earlier[better]
        shared = ones[words_NW[later] & words_NW[earlier]].sum(axis=1)
        alike = _alike(shared, counts_N[later], counts_N[earlier])
        first_N[later[alike]] = earlier[alike]
    return [int(first) if first < len(hashes) else None for first in first_N]


def _alike(shared: NDArray, counts: NDArray, other_counts: NDArray) -> Bits:
    """Whether pictures are nearly the same, from the numbers of bits that they share and that each has."""
    either = counts + other_counts - shared
    return (either >= FEWEST_BITS) & (shared >= ALIKE * either)


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian in the sharpest tile: of a portrait before a blurred background, that of the face.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study". It falls with contrast as
    with focus: an empty picture has none.
    """
    levels_HW = np.asarray(grey).astype(np.int16)
    if min(levels_HW.shape) < 3:
        return 0.0
    laplacian_HW = levels_HW[:-2, 1:-1] + levels_HW[2:, 1:-1] + levels_HW[1:-1, :-2] + levels_HW[1:-1, 2:]
    laplacian_HW -= 4 * levels_HW[1:-1, 1:-1]
    tiles = _tiles(laplacian_HW.astype(np.float32), TILE)
    pixels = tiles.shape[1] * tiles.shape[3]
    means = np.einsum("rhcw->rc", tiles) / pixels
    squares = np.einsum("rhcw,rhcw->rc", tiles, tiles) / pixels
    return float((squares - means**2).max())


def sharpness_by_side(grey: Image.Image) -> dict[int, float]:
    """`sharpness` of the picture at each of SIDES; it is never enlarged, so a small one counts as it is at the largest."""
    found: dict[int, float] = {}
    value = None
    for side in SIDES:
        smaller = at_side(grey, side)
        if smaller is not grey or value is None:
            value = sharpness(smaller)
        grey, found[side] = smaller, value
    return found


def at_side(grey: Image.Image, side: int) -> Image.Image:
    """The picture made smaller until its area is that of a square of that side; itself where it is no larger."""
    now = math.sqrt(grey.width * grey.height)
    if round(now) <= side:
        return grey
    smaller = max(1, round(grey.width * side / now)), max(1, round(grey.height * side / now))
    return grey.reduce(2) if round(now) == 2 * side else grey.resize(smaller, Image.Resampling.BOX)


def nearest_side(side: float) -> int:
    """Which of SIDES is nearest to the square root of a training area."""
    return min(range(len(SIDES)), key=lambda number: abs(math.log(SIDES[number] / side)))


def exposure(grey: Image.Image) -> Exposure:
    """How a picture was exposed, judged at EXPOSURE_SIDE."""
    levels_HW = _at_exposure_side(grey)
    white_HW = levels_HW >= WHITE
    white = float(white_HW.mean())
    cells = _tiles(white_HW, CELL).mean(axis=(1, 3))
    coloured = cells < 0.98
    strokes_gone = _widened(levels_HW, STROKE) < WHITE - 10
    return Exposure(
        dark=float((levels_HW < SHADOW).mean()),
        white=white,
        torn=float(((cells > 0.02) & coloured).sum() / max(1, coloured.sum())),
        broad=float(strokes_gone.mean() / max(1e-9, 1 - white)),
        darkest=_darkest(grey) / 255,
    )


def spread(grey: Image.Image) -> float:
    """Levels between the darkest and the lightest of a picture at EXPOSURE_SIDE, but for the OUTERMOST pixels."""
    darkest, lightest = np.percentile(_at_exposure_side(grey), (OUTERMOST, 100 - OUTERMOST))
    return float(lightest - darkest)


def is_empty(spreads: ArrayLike) -> NDArray[np.bool_]:
    """Whether there is nothing to be seen in a picture; a faint drawing is something.

    Args:
        spreads: a `spread`, or (N,) of several.
    """
    return np.asarray(spreads) < EMPTY


def is_dark(exposures: ArrayLike) -> NDArray[np.bool_]:
    """Whether next to nothing in a picture is lit. A face that takes half a percent of a night scene is enough.

    Args:
        exposures: an `Exposure`, or (N, 5) numbers of several.
    """
    dark, *_ = np.moveaxis(np.asarray(exposures), -1, 0)
    return dark > 0.995


def is_overexposed(exposures: ArrayLike) -> NDArray[np.bool_]:
    """Whether much of a picture is cut off at white, all over it, or next to all of it, and nothing in it is dark.

    Clothes, hair or eyes keep a portrait before white from it, an edge all round a white background, thin strokes a pencil
    drawing; where next to all is white, a dark line is enough. Photographs that were exposed three to four stops too long are found, most by two are not.

    Args:
        exposures: as for `is_dark`.
    """
    dark, white, torn, broad, darkest = np.moveaxis(np.asarray(exposures), -1, 0)
    all_over = (white > 0.4) & (torn > 0.75) & (broad > 0.02) & (dark < 0.01)
    pale = (darkest * 255 >= SHADOW) & (darkest * 255 < WHITE)  # what is white altogether is empty
    return all_over | ((white > NEXT_TO_ALL) & pale)


def _darkest(grey: Image.Image) -> int:
    """The level, of 256, below which only OUTERMOST of the pixels lie."""
    counts = np.cumsum(grey.histogram())
    return int(np.searchsorted(counts, counts[-1] * OUTERMOST / 100, side="right"))


def _at_exposure_side(grey: Image.Image) -> NDArray[np.uint8]:
    factor = max(1, round(math.sqrt(grey.width * grey.height) / EXPOSURE_SIDE))
    return np.asarray(grey.reduce(factor))


def _tiles(values_HW: NDArray, side: int) -> NDArray:
    """(rows, h, columns, w) tiles of about that side; what is beyond whole tiles is left out."""
    height, width = values_HW.shape
    rows, columns = max(1, height // side), max(1, width // side)
    h, w = height // rows, width // columns
    return values_HW[: h * rows, : w * columns].reshape(rows, h, columns, w)


def _widened(levels_HW: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Each pixel the lightest of a square of that (odd) side around it."""
    half = side // 2
    for _ in range(2):
        padded = np.pad(levels_HW, ((half, half), (0, 0)))
        levels_HW = np.max([padded[top : top + len(levels_HW)] for top in range(side)], axis=0).T
    return levels_HW
