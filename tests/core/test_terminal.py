"""Text of others in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from library.core.errors import UserError, UserErrors
from library.core.terminal import harmless


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


def test_what_the_terminal_cannot_show_ends_nothing() -> None:
    program = "from library.core.runtime import run_command; raise SystemExit(run_command(lambda: print('☃ \\udcff')))"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, b"\\u2603 \\udcff")
