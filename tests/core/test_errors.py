"""How mistakes are worded."""

from __future__ import annotations

import pytest

from library.core.errors import UserError, UserErrors, did_you_mean, raise_all


def test_nothing_is_raised_where_nothing_is_wrong() -> None:
    raise_all([])
    with pytest.raises(UserError):
        raise_all([""])


def test_a_single_mistake_stands_alone() -> None:
    with pytest.raises(UserError) as caught:
        raise_all(["rank must be positive"])
    assert str(caught.value) == "rank must be positive"
    assert caught.value.messages == UserError("rank must be positive").messages == ["rank must be positive"]


def test_several_mistakes_are_numbered_from_one() -> None:
    with pytest.raises(UserErrors) as caught:
        raise_all(["first", "second", "third"])
    assert str(caught.value) == "3 problems:\n  1. first\n  2. second\n  3. third"
    assert caught.value.messages == ["first", "second", "third"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("netwrok_dim", " Did you mean 'network_dim'?"),
        ("network_dim", " Did you mean 'network_dim'?"),
        ("qqqq", ""),
        ("", ""),
    ],
)
def test_the_nearest_known_word_is_suggested(word: str, found: str) -> None:
    assert did_you_mean(word, ["network_alpha", "network_dim", "seed"]) == found


def test_no_known_words_no_suggestion() -> None:
    assert did_you_mean("seed", iter(())) == ""
