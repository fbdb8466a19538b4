from __future__ import annotations

from library.core.wording import first_of, how_many


def test_numbers_have_their_noun() -> None:
    assert [how_many(number, "picture") for number in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]
    assert [how_many(number, "was", "were") for number in (1, 2)] == ["1 was", "2 were"]


def test_many_names_are_cut() -> None:
    assert first_of(["a", "b"], 2) == "a, b" and first_of(["a", "b", "c"], 2) == "a, b, and 1 more"
