"""The example data sets, drawn anew by `python -m library.demo.examples`.

`alexander` is one character in many scenes: his captions name the scene and never his look, so that the look goes into
the trigger word. `kungfustyle` is one stance by many fighters: its captions name the fighters and never the stance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from library.demo.captions import CLASS_WORD, look_tags, scene_tags
from library.demo.drawing import draw
from library.demo.look import BACKGROUNDS, EXPRESSIONS, STYLE_POSE, Look, poses_for, random_look

TRAINING_COUNT, HELD_OUT_COUNT = 20, 16
PICTURE_SIZE = 128
FIRST_SEED = 10_000_000

ALEXANDER = Look(hair_style="long hair", hair_colour="silver", skin="fair", outfit="coat", outfit_colour="purple")


@dataclass(frozen=True)
class Example:
    """One picture of an example data set: where it goes below the demo folder, what it shows, and its caption."""

    path: Path
    look: Look
    caption: str


def examples() -> Iterator[Example]:
    """Every picture of both data sets, training and held-out."""
    for name, looks_and_captions in (("alexander", _alexander()), ("kungfustyle", _kungfustyle())):
        for index, (look, text) in enumerate(looks_and_captions):
            training = index < TRAINING_COUNT
            number = index + 1 if training else index + 1 - TRAINING_COUNT
            folder = Path("training_data" if training else "held_out") / name
            yield Example(folder / f"{name}_{number:02d}.png", look, text)


def write_examples(out: Path) -> None:
    """Draw the pictures, with a caption file beside each."""
    for example in examples():
        path = out / example.path
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(example.look, PICTURE_SIZE).save(path, optimize=True)
        path.with_suffix(".txt").write_text(example.caption + "\n", encoding="utf-8", newline="\n")


def _alexander() -> Iterator[tuple[Look, str]]:
    for index, (framing, pose, background) in enumerate(_scenes()):
        expression = EXPRESSIONS[index % len(EXPRESSIONS)]
        seed = FIRST_SEED + index
        look = replace(ALEXANDER, framing=framing, pose=pose, expression=expression, background=background, seed=seed)
        yield look, ", ".join(["alexander", CLASS_WORD, *scene_tags(look)])


def _scenes() -> list[tuple[str, str, str]]:
    """Framing, pose and background of each picture, all different: no held-out combination occurs in training.

    The 10, 5 or 1 poses of a framing and the 11 backgrounds have no common divisor, so cycling through both repeats none.
    """
    training = ["full body"] * 12 + ["upper body"] * 5 + ["portrait"] * 3
    held_out = ["full body"] * 10 + ["upper body"] * 4 + ["portrait"] * 2
    return [
        (framing, poses_for(framing)[index % len(poses_for(framing))], BACKGROUNDS[index * 4 % len(BACKGROUNDS)])
        for index, framing in enumerate(training + held_out)
    ]


def _kungfustyle() -> Iterator[tuple[Look, str]]:
    for index in range(TRAINING_COUNT + HELD_OUT_COUNT):
        look = replace(random_look(FIRST_SEED + 1000 + index), framing="full body", pose=STYLE_POSE)
        others = [tag for tag in scene_tags(look) if tag != STYLE_POSE]
        yield look, ", ".join(["kungfustyle", CLASS_WORD, *others[:1], *look_tags(look), *others[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    write_examples(parser.parse_args().out)


if __name__ == "__main__":
    main()
