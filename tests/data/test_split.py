from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from library.core.errors import UserError
from library.data import split
from library.data.index.pictures import Picture
from tests.data.columns import pictures_of


def hold_out(pictures: list[Picture], datasets, seed: int) -> tuple[list[Picture], list[Picture]]:
    training, validation = split.hold_out(pictures_of(pictures), datasets, seed)
    return list(training), list(validation)


def balanced_repeats(pictures: list[Picture]) -> list[int]:
    return split.balanced_repeats(pictures_of(pictures)).tolist()


def known(name: str, dataset: int = 0, repeats: int = 1, is_reg: bool = False, content: str | None = None) -> Picture:
    digest = hashlib.blake2b((content or name).encode(), digest_size=20).hexdigest()
    return Picture(Path(name), 64, 64, "", dataset, 0, is_reg, repeats, content=digest)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=40),
    st.lists(st.integers(0, 12), max_size=20),
    st.floats(0.01, 0.99),
    st.sampled_from([0.0, 0.3]),
    st.integers(0, 5),
)
def test_no_picture_is_on_both_sides(subset, dataset, first, second, split, other_split, seed) -> None:
    """Whatever the copies, the datasets that share pictures, the fractions and the repeats."""
    if len(set(first)) < 2 or len(set(second)) == 1:
        return
    pictures = [known(f"a{n}", 0, repeats=1 + n % 3, content=str(c)) for n, c in enumerate(first)]
    pictures += [known(f"b{n}", 1, content=str(c)) for n, c in enumerate(second)]
    datasets = [dataset(subset(None), validation_split=split), dataset(subset(None), validation_split=other_split)]
    training, validation = hold_out(pictures, datasets, seed)
    assert not {p.content for p in training} & {p.content for p in validation}
    assert validation and training
    if not second:
        distinct = len(set(first))
        assert len({p.content for p in validation}) == min(distinct - 1, max(1, round(split * distinct)))


def test_the_choice_depends_on_the_validation_seed_alone(subset, dataset) -> None:
    pictures = [known(str(n)) for n in range(20)]

    def held(seed: int, validation_seed: int | None, order: int = 1) -> set[str]:
        datasets = [dataset(subset(None), validation_split=0.2, validation_seed=validation_seed)]
        return {str(p.path) for p in hold_out(pictures[::order], datasets, seed)[1]}

    assert len(held(1, None)) == 4
    assert held(1, 7) == held(2, 7) == held(1, 7, order=-1) != held(1, 8)
    assert held(7, None) == held(1, 7)


def test_a_folder_trained_at_two_sizes_is_held_out_of_both(subset, dataset) -> None:
    pictures = [known(str(n), set_) for set_ in (0, 1) for n in range(10)]
    datasets = [dataset(subset(None), validation_split=0.3), dataset(subset(None))]
    training, validation = hold_out(pictures, datasets, 0)
    assert len(training) == 14 and len(validation) == 3
    assert {p.dataset for p in validation} == {0}


def test_edges(subset, dataset) -> None:
    pictures = [known(str(n), n % 2) for n in range(6)]
    only_validates = [dataset(subset(None)), dataset(subset(None), validation_split=1.0)]
    training, validation = hold_out(pictures, only_validates, 0)
    assert {p.dataset for p in training} == {0} and {p.dataset for p in validation} == {1}
    assert hold_out(pictures, [dataset(subset(None))] * 2, 0) == (pictures, [])
    with pytest.raises(UserError, match="nothing is left"):
        hold_out(pictures, [dataset(subset(None), validation_split=1.0)] * 2, 0)
    with pytest.raises(UserError, match="at least two"):
        hold_out(pictures[:1], [dataset(subset(None), validation_split=0.5)], 0)


def test_regularisation_pictures_are_not_held_out(subset, dataset) -> None:
    pictures = [known(str(n)) for n in range(4)] + [known(f"r{n}", is_reg=True) for n in range(4)]
    training, validation = hold_out(pictures, [dataset(subset(None), validation_split=0.5)], 0)
    assert len(validation) == 2 and sum(p.is_reg for p in training) == 4


@pytest.mark.parametrize(
    ("training", "regularisation", "expected"),
    [
        ([10, 10], [1, 1, 1], [7, 7, 6]),  # in turn until 20
        ([2, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]),  # surplus left out
        ([5], [2, 2, 2], [2, 2, 1]),
        ([7], [2, 1], [4, 3]),
        ([3], [], []),
    ],
)
def test_regularisation_matches_the_number_of_training_pictures(training, regularisation, expected) -> None:
    pictures = [known(f"t{n}", repeats=r) for n, r in enumerate(training)]
    pictures += [known(f"r{n}", repeats=r, is_reg=True) for n, r in enumerate(regularisation)]
    repeats = balanced_repeats(pictures)
    assert repeats == training + expected
    assert sum(expected) == (sum(training) if expected else 0)


def test_regularisation_is_balanced_in_each_dataset() -> None:
    pictures = [known("a", 0, 4), known("r", 0, is_reg=True), known("b", 1, 3), known("s", 1, is_reg=True)]
    assert balanced_repeats(pictures) == [4, 4, 3, 3]
