"""The commands that generate pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.cli.with_loras import parse_lora
from library.core.errors import UserError
from library.inference.sheet import MIN_SIDE
from library.lora_files.file import read_lora, save_lora


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("dir/a.safetensors:0", "dir/a.safetensors", 0.0),
        ("C:\\x\\a.safetensors", "C:\\x\\a.safetensors", 1.0),
        ("C:\\x\\a.safetensors:0.5", "C:\\x\\a.safetensors", 0.5),
        ("C:/x/a.safetensors", "C:/x/a.safetensors", 1.0),
        ("a:b.safetensors:2", "a:b.safetensors", 2.0),
    ],
)
def test_a_lora_and_its_strength(text: str, path: str, strength: float) -> None:
    assert parse_lora(text) == (Path(path), strength)


@pytest.mark.parametrize("strength", ["strong", "", "0,8"])
def test_a_strength_that_is_no_number_is_refused(strength: str) -> None:
    with pytest.raises(UserError, match=r"is not a number; write file\.safetensors:0\.8"):
        parse_lora(f"a.safetensors:{strength}")


@pytest.fixture
def sample(dojo, model: Path, tmp_path: Path):
    """`sample("name", "--lora", file)`: the picture of one prompt with these further words."""

    def run(name: str, *words: object) -> np.ndarray:
        out = tmp_path / name
        assert (
            dojo(
                "sample", "--pretrained_model_name_or_path", model, "--prompt", "hero, running", "--width", 32,
                "--height", 24, "--steps", 2, "--seed", 3, "--out", out, *words,
            )
            == 0
        )  # fmt: skip
        assert sorted(path.name for path in out.iterdir()) == ["00_3.png", "sheet.png"]
        return np.asarray(Image.open(out / "00_3.png")).astype(int)

    return run


def test_strengths_make_a_difference(sample, lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = sample("none")
    assert none.shape == (24, 32, 3)
    assert none.std() > 1, "a picture, not a plain colour"
    assert "1 pictures in" in capsys.readouterr().out
    silent, half, full = (sample(f"at_{strength}", "--lora", f"{lora}:{strength}") for strength in (0, 0.5, 1))
    unmarked = sample("unmarked", "--lora", lora)
    assert np.array_equal(silent, none)
    assert np.array_equal(unmarked, full)
    assert np.abs(half - none).mean() > 0.5
    assert np.abs(full - half).mean() > 0.5
    twice = sample("twice", "--lora", f"{lora}:0.5", f"{lora}:0.5")
    assert np.abs(twice - full).max() <= 1, "two halves make a whole"


def test_several_prompts_and_flags(dojo, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("third --w 40 --h 32 --s 1 --d 9\n", encoding="utf-8")
    words = [
        "--prompt",
        "first --d 4",
        "second --d 5",
        "--sample_prompts",
        prompts,
        "--steps",
        1,
        "--width",
        32,
        "--height",
        32,
    ]
    assert dojo("sample", "--pretrained_model_name_or_path", model, *words, "--out", tmp_path / "out") == 0
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["00_4.png", "01_5.png", "02_9.png", "sheet.png"]
    assert Image.open(tmp_path / "out" / "02_9.png").size == (40, 32)


def test_nothing_to_generate_is_a_mistake(dojo, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("sample", "--pretrained_model_name_or_path", model) == 2
    assert "--prompt" in capsys.readouterr().err


def test_a_missing_lora_is_named(dojo, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing.safetensors"
    assert dojo("sample", "--pretrained_model_name_or_path", model, "--prompt", "x", "--lora", missing) == 2
    assert "missing.safetensors" in capsys.readouterr().err


def test_measuring(dojo, model: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for index, colour in enumerate(("red", "navy")):
        Image.new("RGB", (128, 128), colour).save(held_out / f"{index}.png")
        (held_out / f"{index}.txt").write_text(f"hero, man, number {index}", encoding="utf-8")
    Image.new("RGB", (128, 128)).save(held_out / "without_caption.png")
    sheet = tmp_path / "sheet.png"
    status = dojo(
        "measure", "--pretrained_model_name_or_path", model, "--lora", lora, "--held_out", held_out,
        "--trigger_word", "hero", "--class_word", "man", "--steps", 1, "--sheet", sheet,
    )  # fmt: skip
    assert status == 0
    told = capsys.readouterr().out
    assert "of 2 pairs" in told
    assert "change without the trigger" in told
    assert Image.open(sheet).width > 5 * MIN_SIDE


def test_measuring_against_nothing_is_a_mistake(dojo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dojo("measure", "--held_out", tmp_path, "--trigger_word", "hero") == 2
    assert "--held_out" in capsys.readouterr().err


def test_a_network_whose_rank_depends_on_the_timestep_is_told_it(sample, lora: Path, tmp_path: Path) -> None:
    tensors, metadata = read_lora(lora)
    by_timestep = tmp_path / "t_lora.safetensors"
    arguments = '{"min_rank": 1}'
    save_lora(by_timestep, tensors, {**metadata, "ss_network_module": "networks.t_lora", "ss_network_args": arguments})
    difference = sample("by_timestep", "--lora", by_timestep) - sample("always", "--lora", lora)
    assert np.abs(difference).mean() > 0.5
