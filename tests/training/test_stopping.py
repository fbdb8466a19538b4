"""A run stops in order: when asked, when its launcher is gone, and in time for its deadline."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from library.core.errors import Exit
from library.core.signals import Signals
from library.training.loop import Span, fit
from library.training.stopping import Deadline, requests_to_stop, status_of_others


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def steps_until_near(
    limit: float, step: float, to_save: float, lag: int = 0, slow: dict[int, float] | None = None
) -> tuple[int, float]:
    """Steps done before the deadline is near, and the time that is then left."""
    clock = Clock()
    deadline = Deadline(limit, lambda: to_save, lag, clock)
    done = 0
    while not deadline.is_near():
        clock.now += (slow or {}).get(done, step)
        done += 1
    return done, limit - (clock.now - 100.0)


@pytest.mark.parametrize("lag", [0, 2])
def test_enough_time_is_left_for_the_steps_until_it_is_seen_and_for_saving(lag: int) -> None:
    done, left = steps_until_near(100.0, 1.0, 5.0, lag)
    assert (1 + lag) * 1.0 + 5.0 <= left <= 2 * ((1 + lag) * 1.0 + 5.0)
    assert done > 80


def test_a_slow_step_with_its_samples_is_reckoned_with() -> None:
    assert steps_until_near(100.0, 1.0, 1.0, slow={10: 20.0})[1] >= 21.0


def test_a_deadline_that_is_over_is_near_at_once() -> None:
    assert steps_until_near(-1.0, 1.0, 0.0)[0] == 0


def run_with(limit: float | None, signals: Signals | None = None, is_main: bool = True) -> Any:
    training = SimpleNamespace(max_train_time=limit)
    return SimpleNamespace(
        signals=signals or Signals(),
        is_main=is_main,
        processes=1,
        now=time.time(),
        config=SimpleNamespace(training=training),
    )


def test_nothing_asks_a_run_to_stop() -> None:
    assert requests_to_stop(run_with(None), lambda: 0.0, 0)() == 0


def test_what_was_used_up_before_training_counts() -> None:
    run = run_with(60.0)
    assert requests_to_stop(run, lambda: 0.0, 0)() == 0
    run.now -= 61
    assert requests_to_stop(run, lambda: 0.0, 0)() == Exit.TIME_UP
    run.is_main = False
    assert requests_to_stop(run, lambda: 0.0, 0)() == 0, "the main process asks for all"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_told_as_the_shells_status(number: signal.Signals, status: int) -> None:
    signals = Signals()
    asked = requests_to_stop(run_with(None, signals), lambda: 0.0, 0)
    with signals.caught():
        signal.raise_signal(number)
        assert asked() == status
    assert signal.getsignal(number) is not signals._hear


@pytest.mark.parametrize(("total", "status"), [(6, 6), (130, 130), (143, 143), (286, 143), (12, 143)])
def test_the_status_of_a_process_that_was_not_asked_itself(total: int, status: int) -> None:
    assert status_of_others(total) == status


def test_the_end_of_the_launcher_is_noticed() -> None:
    """A launcher starts a run, and is killed."""
    run = textwrap.dedent("""
        import sys, time
        from library.training.stopping import Launcher
        launcher = Launcher()
        print("gone" if launcher.is_gone() else "there", flush=True)
        deadline = time.monotonic() + 20
        while not launcher.is_gone() and time.monotonic() < deadline:
            time.sleep(0.02)
        print("gone" if launcher.is_gone() else "there", flush=True)
    """)
    launch = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {run!r}], env={{**os.environ, 'ACCELERATE_MIXED_PRECISION': 'no'}})"
    launcher = subprocess.Popen([sys.executable, "-c", launch], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "there\n"
    launcher.kill()
    assert launcher.stdout.readline() == "gone\n"
    launcher.wait()


class Witness:
    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def before_training(self, step: int) -> None:
        self.told.append(("before", step))

    def after_step(self, report: Any) -> None:
        self.told.append(("step", report.step))

    def after_training(self, step: int) -> None:
        self.told.append(("after", step))

    def before_stop(self, step: int) -> None:
        self.told.append(("stop", step))


def test_training_stops_after_the_step_in_which_it_is_asked(real_trainer: Any, random_batch: Any) -> None:
    witness = Witness()
    asked = iter([0, 0, Exit.TIME_UP])
    batches = (random_batch(step) for step in range(9))
    ending = fit(real_trainer(), batches, Span(0, 9, 3, 1), [witness], lambda: next(asked))
    assert (ending.step, ending.status) == (3, Exit.TIME_UP)
    assert witness.told[-2:] == [("step", 3), ("stop", 3)]


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("other_is_asked", [False, True])
@pytest.mark.parametrize("saves", [False, True])
def test_processes_stop_after_the_update_in_which_all_know(
    real_trainer: Any, random_batch: Any, monkeypatch: pytest.MonkeyPatch, lag: int, other_is_asked: bool, saves: bool
) -> None:
    """This process is asked after its third update; or the other one is, and says so in the exchange of the fourth. Whoever saves
    looks back at every update in between."""
    trainer, exchanges = real_trainer(), 0
    trainer.processes, trainer.lag = 2, lag

    def all_reduce(summed: torch.Tensor) -> None:
        nonlocal exchanges
        exchanges += 1
        if other_is_asked and exchanges >= 4:
            trainer.groups.extra[1] += 143

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    asked = iter([0, 0, *[0 if other_is_asked else 130] * 9])
    batches = (random_batch(step) for step in range(9))
    observers = [LooksBack(trainer)] if saves else []
    ending = fit(trainer, batches, Span(0, 9, 3, 1), observers, lambda: next(asked))
    assert (ending.step, ending.status) == (4 if saves else 4 + lag, 143 if other_is_asked else 130)


class LooksBack(Witness):
    """As a saver does in every step."""

    def __init__(self, trainer: Any) -> None:
        super().__init__()
        self.trainer = trainer

    def after_step(self, report: Any) -> None:
        self.trainer.look_back()


def test_asked_in_the_last_step_the_run_is_complete(real_trainer: Any, random_batch: Any) -> None:
    witness = Witness()
    asked = iter([0, 130])
    ending = fit(
        real_trainer(), (random_batch(step) for step in range(2)), Span(0, 2, 3, 1), [witness], lambda: next(asked)
    )
    assert (ending.step, ending.status) == (2, Exit.COMPLETE)
    assert witness.told[-1] == ("after", 2)
