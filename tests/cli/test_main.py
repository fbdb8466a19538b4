"""`dojo` and its commands that need no model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three captioned pictures."""
    folder = tmp_path / "pictures" / "2_hero"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        pixels = draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"hero, {name}", encoding="utf-8")
    return folder.parent


@pytest.fixture
def check(dojo, pictures: Path, tmp_path: Path):
    """`check("--strict", "true")`: looks through the pictures; the model is only a place, nothing is read from it."""
    (tmp_path / "model").mkdir()
    return lambda *more: dojo(
        "check", "--pretrained_model_name_or_path", tmp_path / "model", "--train_data_dir", pictures,
        "--resolution", 64, "--output_dir", tmp_path / "out", *more,
    )  # fmt: skip


def test_good_pictures_are_ready(check, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 0
    assert "3 pictures, 6 with repeats: ready." in capsys.readouterr().out
    assert not (tmp_path / "out").exists(), "looking through leaves nothing behind"


def test_a_broken_picture_is_named_and_left_out(check, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = pictures / "2_hero" / "broken.png"
    broken.write_bytes((pictures / "2_hero" / "a.png").read_bytes()[:300])
    assert check() == 0
    told = capsys.readouterr().out
    assert "broken.png" in told
    assert "3 pictures, 6 with repeats: ready." in told


def test_under_strict_a_broken_picture_must_be_mended_first(
    check, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "2_hero" / "broken.png").write_bytes(b"")
    assert check("--strict", "true") == 2
    told = capsys.readouterr()
    assert "broken.png" in told.err
    assert "ready" not in told.out


def test_a_folder_without_pictures_is_named(check, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (pictures / "2_hero").iterdir():
        file.unlink()
    assert check() == 2
    assert pictures.as_posix() in capsys.readouterr().err.replace("\\", "/")


def test_an_unknown_option_is_refused_with_the_nearest(check, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("--network_dimm", 4) == 2
    assert "Did you mean 'network_dim'?" in capsys.readouterr().err
