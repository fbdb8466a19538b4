"""Batches that are made while the one before is worked on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from library.core.errors import UserError
from library.training.loading import made_ahead

CPU = torch.device("cpu")


class Source(Iterator[int]):
    """Counts up to `last`; `made[n]` is set when n has been handed out."""

    def __init__(self, last: int, fails_at: int | None = None) -> None:
        self.last = last
        self.fails_at = fails_at
        self.given = 0
        self.made = [threading.Event() for _ in range(last + 1)]
        self.threads: set[str] = set()

    def __next__(self) -> int:
        if self.given == self.fails_at:
            raise UserError("4.png: was changed since the run began.")
        if self.given == self.last:
            raise StopIteration
        self.given += 1
        self.threads.add(threading.current_thread().name)
        self.made[self.given].set()
        return self.given


def test_all_come_in_order() -> None:
    assert list(made_ahead(Source(7), CPU)) == [1, 2, 3, 4, 5, 6, 7]
    assert list(made_ahead(Source(0), CPU)) == []


def test_the_next_is_made_while_one_is_worked_on_and_no_more() -> None:
    source = Source(5)
    items = made_ahead(source, CPU)
    assert next(items) == 1
    assert source.made[2].wait(timeout=10), "nobody asked for the second yet, and it is made all the same"
    assert not source.made[3].wait(timeout=0.1)
    assert threading.current_thread().name not in source.threads
    items.close()


def test_an_error_is_raised_in_its_turn() -> None:
    items = made_ahead(Source(9, fails_at=3), CPU)
    assert [next(items), next(items), next(items)] == [1, 2, 3]
    with pytest.raises(UserError, match=r"4\.png"):
        next(items)


def test_a_run_that_stops_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    items = made_ahead(Source(9), CPU)
    next(items)
    started = set(threading.enumerate()) - before
    assert started
    items.close()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
