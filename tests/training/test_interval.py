"""When something is due."""

from __future__ import annotations

import pytest

from library.training.interval import Interval
from library.training.loop import Span, StepReport
from tests.training.conftest import report_of

UPDATES_PER_EPOCH = 4


def report(step: int) -> StepReport:
    """The report after `step` updates of a run with four updates an epoch."""
    return report_of(step, UPDATES_PER_EPOCH)


@pytest.mark.parametrize(
    ("interval", "due"),
    [
        (Interval(), []),
        (Interval(steps=5), [5, 10, 15]),
        (Interval(epochs=1), [4, 8, 12, 16]),
        (Interval(epochs=2), [8, 16]),
        (Interval(steps=6, epochs=2), [6, 8, 12, 16]),
        (Interval(steps=1), list(range(1, 18))),
    ],
)
def test_due(interval: Interval, due: list[int]) -> None:
    assert [step for step in range(1, 18) if interval.due(report(step))] == due


def test_both_reasons_may_hold_at_once() -> None:
    interval = Interval(steps=8, epochs=1)
    assert interval.by_steps(report(8))
    assert interval.by_epochs(report(8))
    assert not interval.by_steps(report(4))
    assert interval.by_epochs(report(4))


@pytest.mark.parametrize(("last", "epochs"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_last_epoch_that_is_cut_short_counts(last: int, epochs: int) -> None:
    assert Span(0, last, UPDATES_PER_EPOCH, 1).epochs == epochs


def test_only_whole_epochs_are_done() -> None:
    span = Span(0, 20, UPDATES_PER_EPOCH, 1)
    assert [span.epochs_after(step) for step in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    "interval", [Interval(), Interval(steps=3), Interval(epochs=2), Interval(steps=6, epochs=2), Interval(steps=1)]
)
@pytest.mark.parametrize("first", [0, 3, 8, 17])
def test_how_often_it_comes_due_between_two_steps(interval: Interval, first: int) -> None:
    steps = [report(step) for step in range(first + 1, 17)]
    times = sum(interval.by_steps(each) + interval.by_epochs(each) for each in steps)
    assert interval.times(Span(first, 17, UPDATES_PER_EPOCH, 1)) == times
