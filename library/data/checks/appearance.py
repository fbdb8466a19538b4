"""Findings about how pictures look: blurred, dark, over-exposed, empty, transparent.

Letters: N pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.data.checks.findings import Finding
from library.data.index.pictures import Pictures
from library.data.pictures.looks import BLURRED, Exposure, is_dark, is_overexposed


def about_focus(
    pictures: Pictures, sharpness_N: NDArray[np.floating], judged_N: NDArray[np.bool_]
) -> Iterator[Finding]:
    """Pictures that are blurred at the size they are trained at; the arguments as for `about_exposure`."""
    for place in np.flatnonzero(judged_N & (sharpness_N < BLURRED)):
        yield Finding("blurred", "notice", str(pictures[place].path), "looks blurred.", "A LoRA learns that too.")


def about_empty(pictures: Pictures, empty_N: NDArray[np.bool_]) -> Iterator[Finding]:
    """Pictures that show nothing."""
    for place in np.flatnonzero(empty_N):
        message = "is empty, or next to it: one flat tone all over."
        yield Finding("empty", "notice", str(pictures[place].path), message, "Leave it out: it shows nothing to learn.")


def about_exposure(
    pictures: Pictures, exposures_N5: NDArray[np.floating], judged_N: NDArray[np.bool_]
) -> Iterator[Finding]:
    """Pictures that are too dark or over-exposed.

    Args:
        exposures_N5: the numbers of an `Exposure`, in its order.
        judged_N: which pictures are to be judged.
    """
    for place in np.flatnonzero(judged_N & is_dark(exposures_N5)):
        message = f"is dark: {Exposure(*exposures_N5[place]).dark:.0%} of it is in deep shadow."
        advice = "Lighten it, or leave it out: a LoRA learns the darkness too."
        yield Finding("dark", "notice", str(pictures[place].path), message, advice)
    for place in np.flatnonzero(judged_N & is_overexposed(exposures_N5)):
        message = f"is over-exposed: {Exposure(*exposures_N5[place]).white:.0%} of it is pure white, and nothing in it is dark."
        advice = "What is white has no detail left to learn; take another picture."
        yield Finding("over-exposed", "notice", str(pictures[place].path), message, advice)


def about_transparency(
    pictures: Pictures,
    transparent_N: NDArray[np.bool_],
    invisible_N: NDArray[np.bool_],
    datasets: Sequence[Dataset],
) -> Iterator[Finding]:
    """Pictures that are transparent somewhere, and what becomes of those parts; `invisible_N` are so altogether."""
    for place in np.flatnonzero(transparent_N):
        picture = pictures[place]
        images = datasets[picture.dataset].subsets[picture.subset].images
        filled = f"Those parts are filled with {images.background_color} (background_color)"
        advice = f"{filled}; set alpha_mask = true to leave them out of the loss."
        if picture.mask_path is not None:
            advice = f"{filled}; its mask weighs the loss."
        elif images.alpha_mask and invisible_N[place]:
            message = "is wholly transparent: the whole picture weighs nothing in the loss (alpha_mask)."
            advice = "Leave it out: nothing is learned in its steps."
            yield Finding("transparent", "warning", str(picture.path), message, advice)
            continue
        elif images.alpha_mask:
            advice = f"{filled} and weigh nothing in the loss (alpha_mask)."
        yield Finding("transparent", "notice", str(picture.path), "is transparent in parts.", advice)
