"""`dojo` and its commands that need no model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from library.cli.main import COMMANDS
from library.cli.presets import PRESETS, first_sentence

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_every_command(dojo, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dojo("--help")
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert all(f"{name} " in told and purpose in told for name, purpose in COMMANDS.items())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(dojo, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dojo(command, "--help")
    assert ended.value.code == 0
    assert f"usage: dojo {command} " in capsys.readouterr().out


def test_help_comes_at_once_without_torch() -> None:
    code = (
        "import sys\n"
        "from library.cli.main import main\n"
        "for words in (['--help'], ['sample', '--help'], ['measure', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stderr.strip() == "False"


@pytest.mark.parametrize("words", [[], ["paint"]])
def test_an_unknown_or_missing_command_is_refused(dojo, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dojo(*words)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "COMMAND" in told
    assert not words or ("'paint'" in told and "sample" in told)


def test_presets_are_listed_with_what_they_are_for(dojo, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("presets") == 0
    lines = capsys.readouterr().out.splitlines()
    files = sorted(PRESETS.rglob("*.toml"))
    assert len(lines) == len(files) > 5
    for file in files:
        (line,) = [line for line in lines if line.startswith(f"{file.relative_to(ROOT).as_posix()} ")]
        assert line.endswith(".")
        assert len(line.split()) > 4, "a sentence stands behind the name"


def test_the_first_sentence_of_a_preset(tmp_path: Path) -> None:
    preset = tmp_path / "x.toml"
    preset.write_text("# For cats\n# and dogs. More of it.\n\n# Another remark.\nseed = 1\n", encoding="utf-8")
    assert first_sentence(preset) == "For cats and dogs."
