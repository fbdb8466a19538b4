"""Signals: the first is noted, the second ends the process, and work that may be broken off is."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from library.core.signals import ASKING, BrokenOff, Signals

PROGRAM = """
    import signal, sys, time
    from library.core.signals import Signals
    signals = Signals()
    with signals.caught():
        print("ready", flush=True)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if signals.received and sys.argv[1] == "in order":
                print("received", signals.received.name, flush=True)
                sys.exit(0)
"""


def program(kind: str, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), kind]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


@pytest.mark.parametrize("number", ASKING)
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    started = program("in order")
    started.send_signal(number)
    out, err = started.communicate(timeout=20)
    assert out == f"received {number.name}\n"
    assert "stopping after this step" in err
    assert started.returncode == 0


@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_the_second_ends_the_process_at_once(first: signal.Signals, second: signal.Signals) -> None:
    started = program("never")
    started.send_signal(first)
    time.sleep(0.5)
    assert started.poll() is None
    started.send_signal(second)
    assert started.wait(timeout=5) == 128 + second


def test_what_a_launcher_passes_on_at_once_is_no_second_request() -> None:
    started = program("never")
    for _ in range(3):
        started.send_signal(signal.SIGINT)
        time.sleep(0.02)
    time.sleep(0.3)
    assert started.poll() is None
    started.kill()
    started.communicate()


def test_what_was_ignored_stays_ignored() -> None:
    """As under `nohup`, when the terminal is closed."""
    started = program("in order", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    started.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert started.poll() is None
    started.send_signal(signal.SIGTERM)
    assert started.communicate(timeout=20)[0] == "received SIGTERM\n"


def test_long_work_that_may_be_given_up_is_broken_off() -> None:
    signals = Signals()
    with signals.caught():
        with pytest.raises(BrokenOff), signals.breaking_off():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        assert signals.received == signal.SIGTERM


def test_a_request_from_before_breaks_off_at_once() -> None:
    signals = Signals()
    with signals.caught():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(BrokenOff), signals.breaking_off():
            raise AssertionError("not begun")


def test_a_terminal_that_is_gone_does_not_end_the_run() -> None:
    """The program has a terminal, which hangs up; what it says after that goes nowhere."""
    pid, terminal = pty.fork()
    if pid == 0:
        saying = textwrap.dedent(PROGRAM).replace("sys.exit(0)", "sys.stdout.flush(); sys.exit(7)")
        os.execv(sys.executable, [sys.executable, "-c", saying, "in order"])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_outside_of_the_block_and_in_other_threads_handlers_are_as_they_were() -> None:
    before = [signal.getsignal(number) for number in ASKING]
    signals = Signals()

    def enter() -> None:
        with signals.caught():
            assert [signal.getsignal(number) for number in ASKING] == before

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    with signals.caught():
        assert [signal.getsignal(number) for number in ASKING] != before
    assert [signal.getsignal(number) for number in ASKING] == before
