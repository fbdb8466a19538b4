"""Files are written in their order while the caller goes on; what goes wrong reaches the caller."""

from __future__ import annotations

import time
from threading import Event

import pytest

from library.training.state.background import BackgroundWriter


def test_everything_is_written_in_order() -> None:
    writer, written = BackgroundWriter(), []
    for number in range(20):
        writer.write(lambda number=number: written.append(number))
    writer.finish()
    assert written == list(range(20))


def test_the_caller_does_not_wait_for_one_and_copies_do_not_pile_up() -> None:
    writer, free = BackgroundWriter(), Event()
    started = time.perf_counter()
    for _ in range(2):
        writer.write(lambda: assert_set(free))
    assert time.perf_counter() - started < 1
    released: list[float] = []

    def release() -> None:
        time.sleep(0.2)
        released.append(time.perf_counter())
        free.set()

    helper = BackgroundWriter()
    helper.write(release)
    writer.write(lambda: None)
    assert time.perf_counter() > released[0], "the third waits until the first is written"
    writer.finish()
    helper.finish()


def assert_set(event: Event) -> None:
    assert event.wait(10)


@pytest.mark.parametrize("use", ["write", "check", "finish"])
def test_an_error_is_raised_at_the_next_use(use: str) -> None:
    writer = BackgroundWriter()
    writer.write(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        for _ in range(1000):
            if use == "write":
                writer.write(lambda: None)
            elif use == "check":
                writer.check()
            else:
                writer.finish()
            time.sleep(0.001)


def test_it_remembers_the_slowest() -> None:
    writer = BackgroundWriter()
    writer.write(lambda: time.sleep(0.05))
    writer.write(lambda: None)
    writer.finish()
    assert writer.longest >= 0.05
