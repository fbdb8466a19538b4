"""`dojo check`: from files with real faults to the table, the JSON, the sheet and the exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from library.cli.check import main, with_a_model
from library.core.errors import UserError
from library.preflight.report import Report

ROOT = Path(__file__).resolve().parents[2]
COUNT = 12


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve captioned pictures, shown twice an epoch."""
    folder = tmp_path / "pictures" / "2_hero"
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = draw.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"hero, pose {number}", encoding="utf-8")
    return folder


@pytest.fixture
def options(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a run on them; the model is only a place, nothing is read from it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()
    return [
        "--pretrained_model_name_or_path", str(tmp_path / "model"), "--train_data_dir", str(pictures.parent),
        "--resolution", "64", "--output_dir", str(tmp_path / "out"), "--trigger_word", "hero",
    ]  # fmt: skip


@pytest.fixture
def check(dojo, options: list[str]):
    """`check("--strict", "true")`: the fast part of the check, with further options."""
    return lambda *more: dojo("check", *options, "--fast", *more)


def test_good_pictures_are_ready(check, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check() == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == "12 pictures, 24 samples an epoch: ready."
    assert "1600: 24 steps an epoch, 66.67 epochs" in told and "not known: --fast leaves it out." in told
    assert not (tmp_path / "out").exists(), "looking through leaves nothing behind"


def test_every_fault_is_in_the_table_the_json_and_the_sheet(
    check, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (pictures / "00.png").read_bytes()
    (pictures / "cut.png").write_bytes(whole[:300])
    (pictures / "page.png").write_text("<!DOCTYPE html>", encoding="utf-8")
    (pictures / "03.txt").write_text("a stranger", encoding="utf-8")
    (pictures / "04.txt").write_text("hero, " + "word " * 200, encoding="utf-8")
    (pictures / "05.txt").write_bytes(b"")
    with Image.open(pictures / "06.png") as image:
        image.filter(ImageFilter.GaussianBlur(8)).save(pictures / "06.png")
    shutil.copy(pictures / "07.png", pictures / "again.png")
    (pictures / "again.txt").write_text("hero", encoding="utf-8")
    json_file, sheet = tmp_path / "new" / "report.json", tmp_path / "sheet.png"
    assert check("--json", json_file, "--sheet", sheet) == 0
    told = capsys.readouterr().out
    document = json.loads(json_file.read_text(encoding="utf-8"))
    found = {(Path(each["picture"] or each["path"]).name, each["kind"]) for each in document["findings"]}
    expected = {
        ("cut.png", "unreadable"), ("page.png", "unreadable"), ("03.png", "no trigger word"), ("04.png", "long caption"),
        ("05.png", "empty caption"), ("06.png", "blurred"), ("again.png", "copy"),
    }  # fmt: skip
    assert expected <= found
    assert all(kind in told for _, kind in expected) and str(sheet) in " ".join(told.split())
    assert document["ready"] and document["pictures"]["count"] == 13
    with Image.open(sheet) as image:
        image.load()
        assert image.width > 1000


def test_under_strict_a_broken_picture_must_be_mended_first(
    check, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "broken.png").write_bytes(b"")
    assert check() == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("ready, with 1 warning.")
    assert check("--strict", "true") == 2
    told = capsys.readouterr().out
    assert "broken.png" in told and "error    unreadable" in told and "ready" not in told
    assert told.splitlines()[-1].startswith("Not yet: ")


def test_a_folder_as_the_first_word_is_told_to_be_the_data(pictures: Path) -> None:
    with pytest.raises(UserError, match=f"--train_data_dir {re.escape(str(pictures.parent))}$"):
        main([str(pictures.parent)])


def test_mistakes_of_the_configuration_are_told_all_at_once(
    check, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ("--network_dimm", 4, "--max_train_steps", "many", "--json", tmp_path / "r.json")
    assert check(*wrong) == 2
    told = capsys.readouterr()
    assert "Did you mean 'network_dim'?" in told.err and "max_train_steps" in told.err and told.out == ""
    document = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert document["ready"] is False and document["plan"] is None
    (one,) = [each["message"] for each in document["findings"] if "network_dim" in each["message"]]
    (other,) = [each["message"] for each in document["findings"] if "max_train_steps" in each["message"]]
    assert one in told.err and other in told.err


def test_a_folder_without_pictures_is_named(check, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in pictures.iterdir():
        file.unlink()
    assert check("--json", "-") == 2
    told = capsys.readouterr()
    assert pictures.parent.as_posix() in told.err.replace("\\", "/")
    assert json.loads(told.out)["counts"]["errors"] == 1


def test_nothing_but_json_on_standard_output(check, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert check("--json", "-", "--sheet", tmp_path / "s.png", "--price_per_hour", 2) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ready"] and document["plan"]["steps_per_epoch"] == 24
    assert document["estimates"] is None and document["not_estimated"] and document["price_per_hour"] == 2
    assert (tmp_path / "s.png").is_file()


@pytest.mark.parametrize("option", ["--sheet", "--json"])
def test_a_place_that_cannot_be_written_is_named(
    check, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert check(option, tmp_path / "file" / "x.png") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_sheet_is_a_png(check, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check("--sheet", "sheet.jpg")
    assert ended.value.code == 2 and "does not end in .png" in capsys.readouterr().err


def test_a_first_word_is_the_configuration(
    dojo, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = dict(zip((name[2:] for name in options[::2]), options[1::2]))
    lines = [f"{name} = {value if value.isdigit() else json.dumps(value)}" for name, value in settings.items()]
    (tmp_path / "my.toml").write_text("\n".join(lines), encoding="utf-8")
    assert dojo("check", tmp_path / "my.toml", "--fast", "--json", "-", "--max_train_steps", 48) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["setup"]["files"] == [str(tmp_path / "my.toml")] and document["plan"]["epochs"] == 2


def test_data_alone_are_looked_at_without_a_model(
    dojo, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dojo("check", *options[2:]) == 0, "and nothing is estimated for a model that nobody named"
    assert "not known: no base model is named" in capsys.readouterr().out
    assert dojo("check", *options[2:], "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["setup"]["pretrained_model_name_or_path"] == ""


def test_whether_a_model_is_named(tmp_path: Path) -> None:
    model, data = tmp_path / "model.toml", tmp_path / "data.toml"
    model.write_text('pretrained_model_name_or_path = "x"', encoding="utf-8")
    data.write_text('train_data_dir = "y"', encoding="utf-8")
    assert with_a_model(["--config", str(model), "--train_data_dir", "y"])[1], "the file's own model is kept"
    assert with_a_model(["--config", str(data), "--extends", str(model)])[1]
    assert with_a_model(["--pretrained_model_name_or_path=x"])[1] and with_a_model([])[1], "nothing named is the demo"
    options, named = with_a_model(["--config", str(data)])
    assert not named and options[2] == "--pretrained_model_name_or_path"


@pytest.fixture
def estimating(monkeypatch: pytest.MonkeyPatch):
    """`estimating(function)` stands in for the estimator."""

    def stand_in(function) -> None:
        monkeypatch.setitem(
            sys.modules, "library.preflight.estimates", type("Estimates", (), {"estimate_run": function})
        )

    return stand_in


def test_what_cannot_be_built_is_an_error(
    dojo, options: list[str], estimating, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_):
        raise UserError("network_module: no such network.")

    estimating(fail)
    assert dojo("check", *options) == 2
    told = capsys.readouterr().out
    assert "estimating memory and time" in told and "Not yet: 1 error must be mended first." in told
    assert dojo("check", *options, "--json", "-") == 2
    document = json.loads(capsys.readouterr().out)
    assert [each["message"] for each in document["findings"] if each["severity"] == "error"] == [
        "network_module: no such network."
    ]


def test_the_data_are_told_before_anything_is_estimated(
    dojo, options: list[str], estimating, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def estimate(loaded, datasets, pictures) -> Report:
        seen.append((capsys.readouterr().out, len(pictures), len(datasets)))
        raise UserError("enough.")

    estimating(estimate)
    dojo("check", *options)
    ((told, *counts),) = seen
    assert "12 pictures x2" in told and counts == [12, 1]


def test_as_a_command_and_without_torch(options: list[str], pictures: Path, tmp_path: Path) -> None:
    """The whole command in a process of its own; of torch nothing is imported."""
    code = (
        "import sys\n"
        "from library.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'torch'], file=sys.stderr)\n"
        "sys.exit(status)\n"
    )
    (pictures / "evil\x1b[2J.png").write_bytes(b"")
    words = [
        "check",
        *options,
        "--fast",
        "--strict",
        "true",
        "--sheet",
        str(tmp_path / "s.png"),
        "--json",
        str(tmp_path / "r.json"),
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"}
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, encoding="utf-8", cwd=ROOT, env=environment, check=False
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == "[]"
    assert "\x1b" not in ended.stdout and "evil\\x1b[2J.png: is empty" in ended.stdout
    assert all(len(line) <= 80 for line in ended.stdout.splitlines() if not line.startswith("Contact sheet: /"))
    assert re.search(r"^  64x64 .*█{10}", ended.stdout, re.MULTILINE)
    paths = [each["path"] for each in json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["findings"]]
    assert str(pictures / "evil\x1b[2J.png") in paths, "in JSON names are what they are"
    assert (tmp_path / "s.png").is_file()


def test_with_a_model_the_whole_run_is_estimated(
    dojo, options: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        dojo("check", "--pretrained_model_name_or_path", model, *options[2:], "--price_per_hour", 3600, "--json", "-")
        == 0
    )
    document = json.loads(capsys.readouterr().out)
    found = document["estimates"]
    assert found["peak_memory_bytes"] > 1e6 and found["disk_bytes"] > 1e3 and found["problems"] == []
    assert document["cost"] == pytest.approx(found["seconds"]) and found["seconds"] > 0
    assert found["learning_rates"][0][0] == 1 and found["learning_rates"][-1][0] == document["plan"]["steps"]
    assert not (tmp_path / "out").exists()


def test_the_sheet_names_the_file_that_was_given(
    dojo, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []
    monkeypatch.setattr("library.preflight.sheet.write_sheet", lambda file, title, *_: titles.append(title) or [file])
    for name in ("my.toml", "over.toml"):
        (tmp_path / name).write_text("max_train_steps = 10", encoding="utf-8")
    sheet = (*options, "--fast", "--sheet", tmp_path / "s.png")
    dojo("check", tmp_path / "my.toml", *sheet, "--extends", tmp_path / "over.toml")
    dojo("check", *sheet)
    assert titles == ["dojo check my.toml", f"dojo check {options[3]}"]


@pytest.mark.parametrize("option", ["--sheet", "--json"])
def test_only_the_last_folder_is_made(check, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(option, tmp_path / "new" / "x.png") == 0 and (tmp_path / "new" / "x.png").is_file()
    for slip in (tmp_path / "neww" / "er" / "x.png", Path(tmp_path.anchor) / "nope" / "x.png"):
        with pytest.raises(SystemExit) as ended:
            check(option, slip)
        assert ended.value.code == 2 and f"there is no folder {slip.parent}" in capsys.readouterr().err
        assert not slip.parent.exists() and not (tmp_path / "neww").exists()
