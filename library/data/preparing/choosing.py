"""Which of the made pictures are used, and which of those only validate. Copies are known by their bytes and by their looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from library.core.errors import UserError
from library.core.randomness import derived_seed
from library.data.pictures.looks import earlier_lookalikes
from library.data.preparing.making import Made


@dataclass(frozen=True)
class Candidate:
    """A picture that could be made."""

    name: str
    """Of its original, below the source."""
    content: str
    """Hash of its original's bytes."""
    made: Made


@dataclass(frozen=True)
class Copies:
    """For each candidate the first one that is the same, or looks the same, as its number; itself where there is none."""

    same: list[int]
    alike: list[int]
    """Near copies, and copies of near copies, with all that they resemble in turn."""


def find_copies(candidates: Sequence[Candidate], near: bool) -> Copies:
    """Every candidate compared with those before it; their looks too if `near`, which takes the square of their number."""
    first: dict[str, int] = {}
    same = []
    for number, each in enumerate(candidates):
        place = min(first.setdefault(each.content, number), first.setdefault(each.made.content, number))
        same.append(place)
    looks: Sequence[int | None] = [None] * len(candidates)
    if near:
        looks = earlier_lookalikes([each.made.bits for each in candidates])
    alike: list[int] = []
    for number, (copied, resembled) in enumerate(zip(same, looks)):
        nearest = copied if resembled is None else resembled
        alike.append(number if nearest == number else alike[nearest])
    return Copies(same, alike)


def choose_validation(candidates: Sequence[Candidate], alike: Sequence[int], share: float, seed: int) -> list[bool]:
    """Whether each candidate only validates.

    As the trainer's `validation_split` does it: a share of the different pictures, at least one, drawn by their contents, so that
    adding pictures moves few. Near copies are on one side too.

    Raises:
        UserError: there are not two different pictures.
    """
    if share <= 0:
        return [False] * len(candidates)
    groups = {candidates[first].content: first for first in alike}
    if len(groups) < 2:
        raise UserError(
            f"--validation_split {share:g}: there is one picture (copies and near copies not counted); a split needs at least two. "
            "Add pictures, or leave --validation_split out."
        )
    drawn = sorted(groups, key=lambda content: derived_seed(seed, "validation_split", int(content, 16)))
    held = {groups[content] for content in drawn[: min(len(groups) - 1, max(1, round(share * len(groups))))]}
    return [first in held for first in alike]
