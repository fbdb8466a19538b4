from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from library.core.errors import Exit, UserError
from library.generation.folder import folder_of
from library.generation.make import make, parameters, settle
from library.generation.plan import Canvas
from library.generation.record import read_record
from library.inference.requests import SampleRequest

MODEL: dict[str, Any] = {
    "options": {"pretrained_model_name_or_path": "models/tiny", "lora": []},
    "identity": {"unet": "u", "vae": "v", "text_encoders": "t", "loras": [], "mixed_precision": "no"},
}


def paint(requests: Sequence[SampleRequest]) -> list[Image.Image]:
    """Noise that depends on everything that is asked for."""
    return [
        Image.fromarray(
            np.random.default_rng(abs(hash((each.prompt, each.seed, each.steps)))).integers(
                0, 256, (each.height, each.width, 3), dtype=np.uint8
            )
        )
        for each in requests
    ]


def one_by_one(entries: Sequence[Any]) -> Sequence[Sequence[Any]]:
    return [[entry] for entry in entries]


@pytest.fixture
def generate(sheet, tmp_path: Path) -> Callable[..., list[int]]:
    """`generate(4, again={2}, steps=3)`: makes four pictures; the numbers of those that were made now."""

    def run(count: int, again=(), overwrite: bool = False, model=MODEL, paint=paint, **changes: Any) -> list[int]:
        former = read_record(tmp_path)
        work = settle(tmp_path, sheet(**changes), count, Canvas(32, 8), model, former, set(again), overwrite)
        make(work, paint, one_by_one)
        return [entry.number for entry in work.missing]

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pictures_have_captions_sizes_and_their_settings(generate, tmp_path: Path) -> None:
    assert generate(4) == [1, 2, 3, 4]
    record = read_record(tmp_path)
    assert record is not None
    for number, entry in record.entries.items():
        path = tmp_path / "10_annx woman" / f"{number:04d}_{entry.request.seed}.png"
        with Image.open(path) as picture:
            assert picture.size == (entry.request.width, entry.request.height)
            assert picture.info["parameters"] == parameters(entry.request, MODEL)
        assert path.with_suffix(".txt").read_text(encoding="utf-8") == f"{entry.caption}\n"


def test_parameters_read_as_those_of_a1111() -> None:
    request = SampleRequest("a knight", "blurry", 64, 96, 7, 20, 5.5, "euler_a")
    expected = (
        "a knight\nNegative prompt: blurry\n"
        "Steps: 20, Sampler: euler_a, CFG scale: 5.5, Seed: 7, Size: 64x96, Model: tiny"
    )
    assert parameters(request, MODEL) == expected


def test_an_interrupted_run_goes_on_to_the_same_bytes(generate, tmp_path: Path) -> None:
    generate(5)
    whole = contents(tmp_path)
    for path in (tmp_path / "10_annx woman").glob("000[1345]*"):
        path.unlink()

    class Stopped(Exception):
        pass

    def stopping(requests: Sequence[SampleRequest]) -> list[Image.Image]:
        if len(list(tmp_path.rglob("*.png"))) == 3:
            raise Stopped
        return paint(requests)

    with pytest.raises(Stopped):
        generate(5, paint=stopping)
    assert generate(5) == [4, 5]
    assert contents(tmp_path) == whole
    assert generate(5) == []
    assert generate(7) == [6, 7], "more of them"
    assert generate(3) == [], "the others stay"
    assert set(whole) - {"generation.json"} < set(contents(tmp_path))


def test_a_weeded_picture_that_would_be_made_anew_is_told(generate, tmp_path: Path) -> None:
    generate(3)
    record = read_record(tmp_path)
    assert record is not None
    folder_of(tmp_path, record).reject(record.entries[2])
    with pytest.raises(
        UserError, match="makes 3 pictures anew, 1 that was weeded out among them, and writes 0 captions"
    ):
        generate(3, steps=3)
    with pytest.raises(UserError, match="makes 0 pictures anew and writes 2 captions anew"):
        generate(3, caption="{trigger}")
    assert generate(3, overwrite=True, steps=3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": 3}, r"steps of 4 pictures; of number 1 it was '2', and is now '3'.*--overwrite makes 4 pictures anew and"),
        ({"negative": "ugly"}, "negative_prompt of 4 pictures"),
        ({"seeds": [1, 2, 3, 4]}, "seed of 4 pictures"),
        ({"caption": "{trigger}"}, r"caption of 4 pictures; .* is now 'annx'.*makes 0 pictures anew and writes 4 captions"),
        ({"model": {**MODEL, "identity": {**MODEL["identity"], "unet": "w"}}}, r"another model \(its UNet\)"),
        ({"model": {**MODEL, "identity": {**MODEL["identity"], "mixed_precision": "bf16"}}}, "mixed_precision: no, now bf16"),
    ],
)  # fmt: skip
def test_other_settings_are_told_and_need_overwrite(generate, tmp_path: Path, changes, told: str) -> None:
    generate(4)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=f"(?s){told}"):
        generate(4, **changes)
    assert contents(tmp_path) == before
    made = generate(4, overwrite=True, **changes)
    assert made == ([] if "caption" in changes else [1, 2, 3, 4])
    assert len(list((tmp_path / "10_annx woman").iterdir())) == 8
    assert generate(4, **changes) == []


def test_only_what_has_changed_is_made_anew(generate, sheet, tmp_path: Path) -> None:
    generate(8)
    before = contents(tmp_path)
    armor = [n for n, entry in read_record(tmp_path).entries.items() if entry.choices["look"] == "armor"]
    looks = ["green coat", {"name": "armor", "prompt": "rusty armor", "caption": "armor"}]
    assert generate(8, overwrite=True, looks=looks) == armor
    changed = {
        name for name, content in contents(tmp_path).items() if before[name] != content and name.endswith(".png")
    }
    assert len(changed) == len(armor)


def test_captions_that_were_edited_stay(generate, tmp_path: Path) -> None:
    generate(3)
    caption = sorted((tmp_path / "10_annx woman").glob("*.txt"))[0]
    caption.write_text("annx, by hand", encoding="utf-8")
    assert generate(4) == [4]
    assert caption.read_text(encoding="utf-8") == "annx, by hand"


def test_others_in_place_of_those_that_are_no_good(generate, tmp_path: Path) -> None:
    generate(4)
    first = read_record(tmp_path)
    folder = folder_of(tmp_path, first)
    folder.reject(first.entries[3])
    assert generate(4) == [], "what was weeded out stays out"
    assert generate(4, again={2, 3}) == [2, 3]
    second = read_record(tmp_path)
    for number in (2, 3):
        assert second.entries[number].request.seed != first.entries[number].request.seed
        assert second.entries[number].request.prompt == first.entries[number].request.prompt
        assert folder.rejected(first.entries[number]).is_file() and not folder.picture(first.entries[number]).exists()
        assert folder.state(second.entries[number]) == "made"
    assert [second.entries[n] for n in (1, 4)] == [first.entries[n] for n in (1, 4)]
    assert generate(4) == []
    assert generate(2, again={4}) == [4], "beyond the count too"


def test_a_full_disk_is_told_and_nothing_half_written(sheet, disk_of) -> None:
    root = disk_of(1 << 16) / "anna"
    work = settle(root, sheet(width=64, height=64), 40, Canvas(64, 8), MODEL, None, set(), False)
    with pytest.raises(UserError, match="would not fit") as raised:
        make(work, paint, one_by_one)
    assert raised.value.exit_code == Exit.DISK_FULL
    few = settle(root, sheet(shots=["portrait"], width=64, height=64), 4, Canvas(64, 8), MODEL, None, set(), False)
    (root.parent / "filler").write_bytes(bytes(12 << 10))
    with pytest.raises(UserError, match=r"could not be written|would not fit") as raised:
        make(few, paint, one_by_one)
    assert raised.value.exit_code == Exit.DISK_FULL
    for path in root.rglob("*.png"):
        Image.open(path).load()
