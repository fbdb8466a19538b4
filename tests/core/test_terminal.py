"""Text of others in a terminal, and colours."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from library.core.errors import UserError, UserErrors
from library.core.terminal import harmless, has_colours


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07\r\x9b", "\\x1b[2J\\x07\\r\\x9b"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("\udcff\ud800", "\\udcff\\ud800"),
        ("\0\x7f", "\\x00\\x7f"),
        ("line\n\ttab é 戦士 😀 <b>", "line\n\ttab é 戦士 😀 <b>"),
    ],
)
def test_what_commands_is_written_as_an_escape(text: str, shown: str) -> None:
    assert harmless(text) == shown
    assert harmless(shown) == shown
    assert str(UserError(text)) == shown
    assert shown in str(UserErrors([text, "other"]))


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("platform", "variables", "stream", "coloured"),
    [
        ("linux", {}, Terminal(), True),
        ("win32", {}, Terminal(), True),
        ("win32", {}, io.StringIO(), False),
        ("win32", {"NO_COLOR": "1"}, Terminal(), False),
        ("linux", {"TERM": "dumb"}, Terminal(), False),
    ],
)
def test_colours_are_for_terminals_and_windows_has_to_be_asked_for_them(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], stream: io.StringIO, coloured: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "system", asked.append)
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colours(stream) == coloured
    assert asked == ([""] if coloured and platform == "win32" else [])


def test_what_the_terminal_cannot_show_ends_nothing() -> None:
    program = "from library.core.runtime import run_command; raise SystemExit(run_command(lambda: print('☃ \\udcff')))"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, b"\\u2603 \\udcff")
