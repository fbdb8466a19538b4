from __future__ import annotations

import pickle
from mmap import mmap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from library.data.index import texts as module
from library.data.index.texts import TextsInTheMaking

ANY = st.text(st.characters(exclude_categories=[]), max_size=20)


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 100)


@settings(max_examples=40, deadline=None)
@given(st.lists(ANY, max_size=30))
def test_texts_come_back_from_memory_and_from_a_file(written: list[str]) -> None:
    """Halves of characters too, as names of files hold them that are not UTF-8."""
    making = TextsInTheMaking()
    numbers = [making.add(text) for text in written]
    texts = making.finished()
    assert [texts[number] for number in numbers] == written
    again = pickle.loads(pickle.dumps(texts))
    assert [again[number] for number in numbers] == written


def test_large_ones_lie_in_a_file_and_take_next_to_no_memory() -> None:
    making = TextsInTheMaking()
    for number in range(10_000):
        making.add(f"a caption of some length, number {number}")
    texts = making.finished()
    assert isinstance(texts._buffer, mmap) and texts._starts.nbytes == 4 * 10_002, "the system may drop the file"
    assert texts[5001] == "a caption of some length, number 5000"


def test_the_same_text_in_a_row_is_kept_once() -> None:
    making = TextsInTheMaking()
    assert [making.add(text) for text in ("a man", "a man", "", "a man", "b", "a man")] == [1, 1, 0, 1, 2, 3]
    assert len(making.finished()) == 4
