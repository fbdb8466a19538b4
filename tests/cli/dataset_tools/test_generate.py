from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]

SHEET = """\
trigger = "annx"
class_word = "woman"
description = "red hair"
looks = ["coat", "armor"]
poses = ["standing", "running"]
shots = ["portrait", {name = "full body", width = 24, height = 40}]
width = 32
height = 32
steps = 1
"""


@pytest.fixture
def anna(tmp_path: Path) -> Path:
    file = tmp_path / "anna.toml"
    file.write_text(SHEET, encoding="utf-8")
    return file


@pytest.fixture
def generate(dojo, model: Path, anna: Path, tmp_path: Path) -> Callable[..., int]:
    """`generate("--count", 3)`: the exit status of making pictures of Anna with the tiny model, in out/."""

    def run(*words: object) -> int:
        return dojo(
            "dataset", "generate", "--character", anna, "--pretrained_model_name_or_path", model, "--out", tmp_path / "out", *words
        )  # fmt: skip

    return run


@pytest.fixture
def weed(dojo, tmp_path: Path) -> Callable[..., int]:
    return lambda *words: dojo("dataset", "generate", "--weed", tmp_path / "out", *words)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "10_annx woman").glob("*.png"))}


def test_the_same_bytes_again_after_an_interruption_and_in_another_folder(
    generate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate("--count", 4) == 0
    told = capsys.readouterr().out
    assert "4 pictures of anna in" in told and "(4 made now)" in told
    assert "portrait 2 · full body 2" in told
    assert "--trigger_word" in told and "sheet.png" in told
    out = tmp_path / "out"
    made = pictures(out)
    assert [name[:5] for name in made] == ["0001_", "0002_", "0003_", "0004_"]
    sizes = {Image.open(out / "10_annx woman" / name).size for name in made}
    assert sizes == {(32, 32), (24, 40)}
    assert (out / "@review" / "sheet.png").is_file()
    record = json.loads((out / "generation.json").read_text(encoding="utf-8"))
    assert record["sheet"]["description"] == "red hair" and len(record["model"]["identity"]["unet"]) == 64
    for picture in list(made)[1:3]:
        (out / "10_annx woman" / picture).unlink()
    assert generate("--count", 4) == 0
    assert "(2 made now)" in capsys.readouterr().out
    assert pictures(out) == made
    assert generate("--count", 4) == 0
    assert "pictures:" not in capsys.readouterr().err, "no bar where nothing is made"
    assert generate("--count", 2, "--out", tmp_path / "other") == 0
    assert list(pictures(tmp_path / "other").items()) == list(made.items())[:2]


def test_a_lora_and_the_command_line_change_what_is_made(generate, lora: Path, tmp_path: Path, capsys) -> None:
    assert generate("--count", 1, "--lora", f"{lora}:0.5") == 0
    (with_lora,) = pictures(tmp_path / "out").values()
    capsys.readouterr()
    assert generate("--count", 1) == 2
    assert "another choice of LoRAs" in capsys.readouterr().err
    assert generate("--count", 1, "--steps", 2, "--lora", f"{lora}:0.5") == 2
    assert "steps of 1 picture; of number 1 it was '1', and is now '2'" in capsys.readouterr().err
    assert generate("--count", 1, "--overwrite", "--batch_size", 2) == 0
    (without,) = pictures(tmp_path / "out").values()
    assert without != with_lora
    assert generate("--count", 1, "--lora", lora.with_name("heroo.safetensors")) == 2
    assert "there is no such file. Did you mean 'hero.safetensors'?" in capsys.readouterr().err


def test_weeding_and_refilling(generate, weed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--count", 4) == 0
    before = pictures(tmp_path / "out")
    capsys.readouterr()
    assert weed("2", "4") == 0
    assert "2 pictures weeded out, 2 left" in capsys.readouterr().out
    assert [name[:4] for name in pictures(tmp_path / "out")] == ["0001", "0003"]
    rejected = tmp_path / "out" / "@review" / "rejected"
    assert sorted(path.name for path in rejected.glob("*.png")) == [name for name in before if name[3] in "24"]
    small = Image.open(tmp_path / "out" / "@review" / "sheet.png").size
    assert weed("--refill") == 0, "with the model that made the others"
    assert "4 pictures of anna" in capsys.readouterr().out
    after = pictures(tmp_path / "out")
    assert [name[:4] for name in after] == ["0001", "0002", "0003", "0004"]
    assert {name for name in after if name in before} == {name for name in before if name[3] in "13"}
    assert Image.open(tmp_path / "out" / "@review" / "sheet.png").width > small[0]
    assert generate("--reroll", "1", "--count", 4) == 0
    assert [name in after for name in pictures(tmp_path / "out")] == [False, True, True, True]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name a --character (alexander, demarcus, or a sheet of yours)"),
        (["--character", "alexnder"], "Did you mean 'alexander'?"),
        (["--character", "demarcus", "--dry_run", "--refill"], "leave out --reroll, --refill and --overwrite"),
        (["--weed", "nowhere", "3"], "there is no generation.json"),
        (["--weed", "nowhere", "3", "--steps", "3"], "--weed does not go with --steps. They are for making pictures: add --refill"),
        (["--weed", "nowhere", "3", "--character", "demarcus", "--refill"], "--weed does not go with --character"),
        (["--character", "demarcus", "--sampler", "eulr", "--dry_run"], "Did you mean 'euler'?"),
        (["--character", "demarcus", "--seed", "-1", "--dry_run"], "seeds is -1"),
        (["--character", "demarcus", "--reroll", "3", "--out", "nowhere"], "there are no pictures in nowhere to make others of"),
    ],
)  # fmt: skip
def test_mistakes_are_told(dojo, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("dataset", "generate", *words) == 2
    assert told in capsys.readouterr().err


def test_numbers_that_are_not_there(generate, weed, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--count", 1) == 0
    for status, option in ((weed("7"), "--weed"), (weed(), "--weed"), (generate("--reroll", "7"), "--reroll")):
        assert status == 2, option
    told = capsys.readouterr().err
    assert told.count("there is no picture 7") == 2 and "say which pictures, by their numbers" in told
    assert weed("1") == 0 and weed("1") == 0
    told = capsys.readouterr().out
    assert "1 picture weeded out, 0 left" in told and "(1 was not there any more)" in told


@pytest.mark.parametrize(
    ("words", "advice"), [([], "the same command goes"), (["--reroll", "1"], "the same command without --reroll goes")]
)
def test_what_becomes_of_an_interrupted_run_is_told(
    generate, words: list[str], advice: str, monkeypatch, capsys
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    assert generate("--count", 1) == 0
    with monkeypatch.context() as patched:
        patched.setattr("library.generation.make.make", interrupted)
        assert generate("--count", 2, *words) == 130
    assert f"What was made so far is kept: {advice} on from there." in capsys.readouterr().out


@pytest.mark.parametrize("count", ["0", "-3", "many"])
def test_no_pictures_are_a_mistake(dojo, count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        dojo("dataset", "generate", "--character", "demarcus", "--count", count)
    assert ended.value.code == 2 and "--count" in capsys.readouterr().err


def test_a_dry_run_needs_no_torch() -> None:
    script = (
        "import sys; from library.cli.main import main; "
        "assert main(['dataset', 'generate', '--character', 'alexander', '--count', '3', '--dry_run']) == 0; "
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("caption: alexander, fighter, ") == 3
    assert "how often each is shown in 3 pictures" in done.stdout and "negative prompt: blurry" in done.stdout


def test_long_prompts_are_told(dojo, anna: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anna.write_text(SHEET.replace("red hair", "very " * 90 + "red hair"), encoding="utf-8")
    assert dojo("dataset", "generate", "--character", anna, "--dry_run", "--count", 2) == 0
    assert "more than 75 tokens: the prompts of 2 of 2 pictures (number 1 is the first)" in capsys.readouterr().out


def test_nothing_is_imported_that_painting_does_not_use(model: Path, anna: Path, tmp_path: Path) -> None:
    words = ["dataset", "generate", "--character", anna, "--pretrained_model_name_or_path", model, "--out", tmp_path / "out"]  # fmt: skip
    program = (
        "import sys\nfrom library.cli.main import main\n"
        f"assert main({[*map(str, words), '--count', '1']}) == 0\n"
        "print([name for name in ('bitsandbytes', 'peft') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
