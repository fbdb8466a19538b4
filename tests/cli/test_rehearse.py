"""`dojo rehearse`: real rehearsals of a tiny model, and what they leave behind."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from library.cli.rehearse import parse
from library.core import runtime
from library.core.errors import Exit
from tests.data.cache.shard_files import records

Rehearse = Callable[..., int]


@pytest.fixture
def rehearse(dojo, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearse:
    """`rehearse(**options)`: the exit status. Seven pictures of three shapes; the output folder holds an older file."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, size in enumerate([(64, 64)] * 4 + [(96, 48)] * 2 + [(48, 96)]):
        Image.new("RGB", size, (30 * number, 90, 200 - 20 * number)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"hero, number {number}", encoding="utf-8")
    monkeypatch.setattr(runtime, "available_cores", lambda: 1)  # threads gain nothing on so small a model
    output = tmp_path / "output" / "hero"
    output.mkdir(parents=True)
    (output / "hero.safetensors").write_bytes(b"an older one")

    def run(**options: object) -> int:
        given = {
            "pretrained_model_name_or_path": model, "train_data_dir": pictures, "resolution": 64, "enable_bucket": "true",
            "min_bucket_reso": 32, "bucket_reso_steps": 16, "train_batch_size": 2, "network_dim": 4, "max_train_steps": 60,
            "seed": 7, "progress": "false", "output_dir": output, "output_name": "hero", "cache_dir": tmp_path / "cache",
            **options,
        }  # fmt: skip
        return dojo("rehearse", *(word for key, value in given.items() for word in (f"--{key}", value)))

    return run


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder in it, hidden ones too, with size and time."""
    return {str(each.relative_to(folder)): (each.stat().st_size, each.stat().st_mtime_ns) for each in folder.rglob("*")}


def table(told: str) -> dict[str, tuple[str, str]]:
    """Mark and the rest of each line of the verdict's table, by part."""
    lines = told[told.index("over the run") :].split("\n\n")[0].splitlines()[1:]
    rows = [re.fullmatch(r"(\w+) +(.+?)(?:  +(.*))?", line) for line in lines]
    return {row[2]: (row[1], row[3] or "") for row in rows if row is not None}


def test_a_good_run_is_told_and_nothing_is_left_behind(
    rehearse: Rehearse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a hero --s 2 --w 32 --h 32\na hero --s 2\n", encoding="utf-8")
    before = contents(tmp_path / "output")
    status = rehearse(
        cache_latents_to_disk="true", cache_text_encoder_outputs_to_disk="true", network_train_unet_only="true",
        sample_prompts=prompts, sample_every_n_steps=20, save_every_n_steps=10, save_state="true", validation_split=0.3,
        max_train_time="10h", price_per_hour=0.5,
    )  # fmt: skip
    told = capsys.readouterr().out
    assert status == Exit.COMPLETE, told
    assert told.rstrip().endswith("It will get through.")
    assert contents(tmp_path / "output") == before
    rows = table(told)
    assert {mark for mark, _ in rows.values()} == {"ok"}
    assert "6 times" in rows["saving"][1], "five intervals and the end"
    assert "4 times" in rows["sampling 64x64"][1], "at 20, 40 and 60, and once without the LoRA"
    assert rows["resuming"][1] == "bitwise the same step"
    assert sum(int(re.search(r"(\d+) steps", rest)[1]) for part, (_, rest) in rows.items() if "steps" in part) == 60
    cached = len(records(tmp_path / "cache" / "latents"))
    encoded, *left = map(int, re.findall(r"(\d+) picture\(s\)", rows["caching"][1]))
    assert cached == encoded == 7 - sum(left), "what is encoded stays for the run"
    assert re.search(r"costs [\d.]+ at 0\.5 an hour", told)


def test_what_fails_is_told_and_hides_nothing_else(
    rehearse: Rehearse, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts with a mistake, a state that lacks something, a disk that will be full, and too little time."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.delitem(sys.modules, "forgetful_network", raising=False)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a hero --w wide\n", encoding="utf-8")
    before = contents(tmp_path / "output")
    status = rehearse(
        network_module="forgetful_network", sample_prompts=prompts, sample_every_n_steps=20, save_every_n_steps=1,
        max_train_steps=10**9, max_train_time="1h",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert status == Exit.MISTAKE
    assert contents(tmp_path / "output") == before
    marks = {part: mark for part, (mark, _) in table(told).items()}
    assert [part for part, mark in marks.items() if mark == "FAILS"] == ["prompts to sample", "resuming", "disk"]
    assert marks["saving"] == marks["loading the LoRA"] == "ok"
    words = " ".join(told[told.index("It will not get through:") :].split())
    assert "prompts.txt, line 1: width is 'wide'" in words
    assert "a resumed run does not go on as the run would have" in words
    assert "save_last_n_steps" in words
    assert re.search(r"max_train_time stops it after 1 h 0 min, at about step \d+ of 1000000000", words)


def test_a_mistake_in_the_config_is_told_as_the_run_tells_it(
    rehearse: Rehearse, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path / "output")
    assert rehearse(network_dimm=4) == Exit.MISTAKE
    assert "Did you mean 'network_dim'?" in capsys.readouterr().err
    assert contents(tmp_path / "output") == before


def test_several_processes_are_refused(
    rehearse: Rehearse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rehearse() == Exit.MISTAKE
    assert "one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "price", "options"),
    [
        (["my.toml"], None, ["--config", "my.toml"]),
        (["my.toml", "--lr", "1", "--price_per_hour", "0.79"], 0.79, ["--config", "my.toml", "--lr", "1"]),
        (["--price_per_hour=2", "--config", "my.toml"], 2.0, ["--config", "my.toml"]),
        ([], None, []),
    ],
)
def test_the_command_line(words: list[str], price: float | None, options: list[str]) -> None:
    assert parse(words) == (price, options)


@pytest.mark.parametrize("price", ["0", "-1", "nan", "inf", "cheap"])
def test_a_price_is_a_number_above_0(price: str) -> None:
    with pytest.raises(SystemExit):
        parse(["--price_per_hour", price])
