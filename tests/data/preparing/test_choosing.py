from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.core.errors import UserError
from library.data.pictures.looks import difference_hash
from library.data.preparing.choosing import Candidate, choose_validation, find_copies
from library.data.preparing.making import Made
from tests.data.preparing.conftest import smooth


def candidate(name: str, look: int, content: str | None = None) -> Candidate:
    bits = np.packbits(difference_hash(smooth(64, 64, seed=look).convert("L"))).tobytes().hex()
    hashed = hashlib.blake2b((content or name).encode(), digest_size=20).hexdigest()
    return Candidate(name, hashed, Made(looks=bits, content=hashed))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=2, max_size=30),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_copies_and_near_copies_are_on_one_side(pictures: list[tuple[int, int]], share: float, seed: int) -> None:
    candidates = [candidate(str(n), look, f"{look} {copy}") for n, (look, copy) in enumerate(pictures)]
    different = len({look for look, _ in pictures})
    if different < 2:
        return
    copies = find_copies(candidates, near=True)
    validates = choose_validation(candidates, copies.alike, share, seed)
    sides = {look: {side for (other, _), side in zip(pictures, validates) if other == look} for look, _ in pictures}
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {True} for side in sides.values()) == min(different - 1, max(1, round(share * different)))


def test_adding_pictures_moves_few() -> None:
    many = [candidate(str(n), n) for n in range(60)]

    def held(candidates: list[Candidate]) -> set[str]:
        chosen = choose_validation(candidates, range(len(candidates)), 0.2, 0)
        return {each.name for each, validates in zip(candidates, chosen) if validates}

    assert len(held(many[:50]) - held(many)) <= 2 and len(held(many)) == 12
    assert held(many[::-1]) == held(many)


def test_copies_are_known_by_either_hash() -> None:
    first, other = candidate("a", 1), candidate("b", 2)
    same_file, same_pixels = candidate("c", 1, "a"), Candidate("d", "0" * 40, other.made)
    assert find_copies([first, other, same_file, same_pixels], near=False).same == [0, 1, 0, 1]


def test_one_picture_cannot_be_split() -> None:
    twice = [candidate("a", 1), candidate("b", 1, "a")]
    with pytest.raises(UserError, match="at least two"):
        choose_validation(twice, find_copies(twice, near=True).alike, 0.5, 0)
    assert choose_validation(twice, [0, 0], 0.0, 0) == [False, False]
