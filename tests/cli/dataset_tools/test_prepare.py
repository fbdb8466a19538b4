"""`dojo dataset prepare` as it is typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from library.cli.dataset_tools.prepare import main
from library.cli.main import main as dojo
from library.config.places import PROJECT_ROOT

TINY = ["--resolution=64", "--min_bucket_reso=32", "--max_bucket_reso=128", "--bucket_reso_steps=16"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight of the demo's pictures, one of them wide, and one that is cut short."""
    folder = tmp_path / "photos" / "10_alexander man"
    folder.mkdir(parents=True)
    for path in sorted((PROJECT_ROOT / "demo" / "training_data" / "alexander").iterdir())[:16]:
        shutil.copy(path, folder)
    pictures = sorted(folder.glob("*.png"))
    with Image.open(pictures[0]) as image:
        image.crop((0, 0, image.width, image.height // 2)).save(folder / "wide.png")
    (folder / "torn.png").write_bytes(pictures[1].read_bytes()[:900])
    return tmp_path / "photos"


def test_everything_is_told(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report, sheet = tmp_path / "out", tmp_path / "report.json", tmp_path / "sheet.png"
    words = [str(photos), "--out", str(out), *TINY, "--fit", "square", "--validation_split", "0.25"]
    assert main([*words, "--json", str(report), "--sheet", str(sheet)]) == 0
    said = capsys.readouterr().out
    assert "torn.png: cannot be decoded" in said and "left out: unreadable" in said
    assert f"--dataset_config {out.as_posix()}/dataset.toml" in said
    assert "1   50% of the picture lost on average, 50% at most" in said
    told = json.loads(report.read_text())
    parts = [picture["part"] for picture in told["pictures"]]
    assert (parts.count("train"), parts.count("validation"), parts.count("")) == (7, 2, 1)
    torn = next(picture for picture in told["pictures"] if not picture["part"])
    assert torn["left_out"] == "unreadable" and "cannot be decoded" in torn["reason"]
    with Image.open(sheet) as image:
        assert image.width > 500 and len(image.convert("RGB").getcolors(1 << 24) or []) > 50
    former = tmp_path / "former.json"
    assert main([*words, "--strict", "--report", str(former)]) == 2, "the option's former name goes on working"
    assert "files as they were" in capsys.readouterr().out
    assert [each["file"] for each in json.loads(former.read_text())["pictures"]] == [
        each["file"] for each in told["pictures"]
    ]


def test_a_dry_run_shows_what_would_be_cut(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    words = [str(photos), "--out", str(tmp_path / "out"), *TINY, "--fit=square", "--dry_run", "--sheet", str(sheet)]
    assert main(words) == 0 and sheet.exists() and not (tmp_path / "out").exists()
    assert "No picture was written" in capsys.readouterr().out


def test_a_name_is_told_of_pictures_that_are_used_alone(photos: Path, tmp_path: Path, capsys) -> None:
    folder = photos / "10_alexander man"
    pictures = sorted(folder.glob("*.png"))
    (folder / "torn.jpg").write_bytes(pictures[1].read_bytes())
    (folder / "wide.webp").write_bytes(pictures[2].read_bytes())
    assert main([str(photos), "--out", str(tmp_path / "out"), *TINY]) == 0
    said = capsys.readouterr().out
    assert "wide.webp: is named wide_webp among the prepared ones" in said and "is named torn" not in said


def test_names_of_every_script_can_be_read_on_the_sheet(photos: Path, tmp_path: Path) -> None:
    """What the font lacks is written as its escape, so that a file named so gives the same sheet."""
    sheets = []
    for name in ("写真😀", r"\u5199\u771f\U0001f600"):
        folder = tmp_path / f"photos-{len(sheets)}"
        folder.mkdir()
        shutil.copy(photos / "10_alexander man" / "wide.png", folder / f"{name}.png")
        sheet = tmp_path / f"sheet-{len(sheets)}.png"
        assert main([str(folder), "--out", str(tmp_path / f"out-{len(sheets)}"), *TINY, "--sheet", str(sheet)]) == 0
        sheets.append(sheet.read_bytes())
    assert sheets[0] == sheets[1]


def test_mistakes_are_told(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "out")]
    for words, said in [
        ([str(photos), *out], "--resolution"),
        ([str(photos), *out, "--resolution=huge"], "expected a number"),
        ([str(photos), *out, "--resolution=768", "--max_bucket_reso=512"], "--max_bucket_reso 512"),
        ([str(photos / "nothing"), *out, *TINY], "no such folder"),
        ([str(photos), "--out", str(photos / "out"), *TINY], "never touched"),
        ([str(photos), *out, *TINY, "--sheet", str(photos / "wide.png")], "nothing is written"),
        ([str(photos), *out, *TINY, "--json", str(photos / "10_alexander man" / "wide.png")], "nothing is written"),
    ]:
        assert dojo(["dataset", "prepare", *words]) == 2
        assert said in capsys.readouterr().err, words
    assert not (tmp_path / "out").exists()
    for words in (["--validation_split=1"], ["--min_side=-1"], ["--keep_alpha", "--alpha_to_mask"]):
        with pytest.raises(SystemExit):
            main([str(photos), *out, *TINY, *words])


def test_the_command_that_is_printed_can_be_pasted(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my pictures"
    assert dojo(["dataset", "prepare", str(photos), "--out", str(out), *TINY]) == 0
    command = f"--dataset_config '{out.as_posix()}/dataset.toml'"
    assert command in capsys.readouterr().out and command in (out / "dataset.toml").read_text()


def test_it_needs_no_torch(photos: Path, tmp_path: Path) -> None:
    words = [str(photos), "--out", str(tmp_path / "out"), *TINY, "--sheet", str(tmp_path / "sheet.png")]
    code = f"import sys; from library.cli.dataset_tools.prepare import main; main({words!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, check=True, capture_output=True)
