"""Does a caption control the picture? Samples are compared with drawings: `python -m library.demo.judge`.

For each attribute a fixed look is sampled with every value of it. Shapes are judged by the nearest drawing: pictures
brought down to 16x16, squared distance. Colours are judged where the drawings of all values differ: the median colour of
that region, nearest in RGB.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from library.demo.captions import caption
from library.demo.drawing import draw
from library.demo.look import (
    BACKGROUNDS,
    FRAMINGS,
    HAIR_COLOURS,
    HAIR_STYLES,
    OUTFIT_COLOURS,
    OUTFITS,
    POSES,
    SKINS,
    Look,
)
from library.demo.sheets import load_pipeline, sample

REFERENCES = 8


@dataclass(frozen=True)
class Trial:
    """One attribute, the look around it, and the values it may take."""

    attribute: str
    base: Look
    values: tuple[str, ...]
    by_colour: bool = False

    def look(self, value: str) -> Look:
        return replace(self.base, **{self.attribute: value})  # type: ignore[arg-type]

    def references(self) -> dict[str, list[Image.Image]]:
        """Drawings of each value, which vary a little."""
        return {v: [draw(replace(self.look(v), seed=s), 64) for s in range(REFERENCES)] for v in self.values}


SPARE = Look(hair_style="spiky hair", hair_colour="brown", outfit="tracksuit", outfit_colour="red", expression="calm")

TRIALS = (
    Trial("framing", SPARE, FRAMINGS),
    Trial("pose", SPARE, POSES),
    Trial("hair_style", replace(SPARE, framing="portrait"), HAIR_STYLES),
    Trial("hair_colour", replace(SPARE, framing="portrait"), tuple(HAIR_COLOURS), by_colour=True),
    Trial("skin", replace(SPARE, framing="portrait"), tuple(SKINS), by_colour=True),
    Trial("outfit", replace(SPARE, hair_style="bald"), OUTFITS),
    Trial("outfit_colour", replace(SPARE, framing="upper body"), tuple(OUTFIT_COLOURS), by_colour=True),
    Trial("background", SPARE, BACKGROUNDS),
)


def judged_values(trial: Trial, pictures: Sequence[Image.Image]) -> list[str]:
    """Which value each picture shows."""
    references = trial.references()
    if trial.by_colour:
        return _by_colour(references, pictures)
    return [_nearest(picture, references) for picture in pictures]


def accuracy(trial: Trial, pipeline, rounds: int = 2, steps: int = 12, seed: int = 100) -> float:
    """Share of samples that show the value that their caption asks for."""
    asked = list(trial.values) * rounds
    pictures = sample(pipeline, [caption(trial.look(value)) for value in asked], seed, steps)
    shown = judged_values(trial, pictures)
    return float(np.mean([a == s for a, s in zip(asked, shown, strict=True)]))


def _pixels(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture, dtype=float)


def _nearest(picture: Image.Image, references: dict[str, list[Image.Image]]) -> str:
    small = _pixels(picture.reduce(4))

    def distance(value: str) -> float:
        return min(float(np.square(small - _pixels(other.reduce(4))).mean()) for other in references[value])

    return min(references, key=distance)


def _by_colour(references: dict[str, list[Image.Image]], pictures: Sequence[Image.Image]) -> list[str]:
    drawings = {value: np.stack([_pixels(drawing) for drawing in drawn]) for value, drawn in references.items()}
    region_HW = _changing_region(list(drawings.values()))
    colours = {value: np.median(drawn[:, region_HW], axis=(0, 1)) for value, drawn in drawings.items()}

    def shown(picture: Image.Image) -> str:
        colour = np.median(_pixels(picture)[region_HW], axis=0)
        return min(colours, key=lambda value: float(np.square(colours[value] - colour).sum()))

    return [shown(picture) for picture in pictures]


def _changing_region(drawings: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Pixels (H, W) that differ between values in every variation."""
    spread_NHW = np.stack(drawings).std(axis=0).mean(axis=-1)
    return np.asarray((spread_NHW > 8).all(axis=0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of samples that show what their caption asks for.")
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    pipeline = load_pipeline(options.model)
    for trial in TRIALS:
        print(f"{trial.attribute:14s} {accuracy(trial, pipeline, options.rounds):.2f} of {len(trial.values)} values")


if __name__ == "__main__":
    main()
