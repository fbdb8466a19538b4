"""Taggers, on a real ONNX model that is small enough to compute by hand: tag n's probability is the mean of a channel / 255."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.captioning.describe import describe_all
from library.captioning.tagger import TagChoice, Tagger, prepared
from library.cli.main import main
from library.core.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TAGS = [("general", 9), ("blue_sky", 0), ("^_^", 0), ("long_hair", 0), ("hero_(series)", 4), ("villain", 4)]
CHANNELS = [2, 0, 1, 2, 2, 1]
"""Of blue, green, red: whose mean is the tag's probability."""


def save_tagger(folder: Path, batch: int | str = "N", tags=TAGS) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    picks = np.zeros((3, len(CHANNELS)), np.float32)
    picks[CHANNELS, range(len(CHANNELS))] = 1 / 255
    nodes = [
        helper.make_node("ReduceMean", ["picture"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "picks"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [batch, 16, 16, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, len(CHANNELS)])],
        [numpy_helper.from_array(picks, "picks")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    rows = [f"{number},{name},{category},1" for number, (name, category) in enumerate(tags)]
    (folder / "selected_tags.csv").write_text("\n".join(["tag_id,name,category,count", *rows]) + "\n")
    return folder


def flat(red: float, green: float, blue: float, size: tuple[int, int] = (16, 16)) -> Image.Image:
    return Image.new("RGB", size, tuple(round(255 * value) for value in (red, green, blue)))  # type: ignore[arg-type]


def test_tags_above_their_threshold_by_probability(tmp_path: Path) -> None:
    tagger = Tagger(save_tagger(tmp_path), TagChoice(), "cpu")
    assert tagger([flat(0.9, 0.5, 0.4), flat(0.8, 0.1, 0.36)]) == [
        "hero (series), long hair, ^_^, blue sky",
        "long hair, blue sky",
    ]


def test_thresholds_and_undesired_tags(tmp_path: Path) -> None:
    choice = TagChoice(0.6, 0.4, ("long hair", "*sky"), ";")
    assert Tagger(save_tagger(tmp_path), choice, "cpu")([flat(0.9, 0.7, 0.9)]) == ["hero (series); villain; ^_^"]


@pytest.mark.parametrize("batch", [1, 4])
def test_models_with_a_fixed_batch(tmp_path: Path, batch: int) -> None:
    images = [flat(value / 5, 0, 0) for value in range(6)]
    free = Tagger(save_tagger(tmp_path / "free"), TagChoice(), "cpu")(images)
    assert Tagger(save_tagger(tmp_path / "fixed", batch), TagChoice(), "cpu")(images) == free


def test_pictures_are_squared_with_white_and_turned_to_bgr() -> None:
    pixels = prepared(flat(1, 0, 0, (32, 16)), 16)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.float32
    assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[8, 8].tolist() == [0, 0, 255]
    assert pixels[..., 1].mean() == pytest.approx(255 / 2, abs=4)


def test_damaged_pictures_are_named_and_the_others_described(tmp_path: Path) -> None:
    tagger = Tagger(save_tagger(tmp_path / "tagger"), TagChoice(), "cpu")
    paths = []
    for number in range(5):
        paths.append(tmp_path / f"{number}.png")
        flat(0, 0.2 * number, 0).save(paths[-1])
    paths[2].write_bytes(paths[2].read_bytes()[:50])
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.save(paths[4])
    texts, unreadable = describe_all([*paths, tmp_path / "gone.png"], tagger, 2, "#ff0000")
    assert list(unreadable) == [paths[2], tmp_path / "gone.png"] and "decoded" in unreadable[paths[2]]
    assert texts == {paths[0]: "", paths[1]: "", paths[3]: "^_^", paths[4]: "hero (series), long hair"}


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda folder: (folder / "model.onnx").unlink(), "there is no"),
    (lambda folder: (folder / "model.onnx").write_bytes(b"nothing"), "no model that onnxruntime can read"),
    (lambda folder: (folder / "selected_tags.csv").unlink(), "cannot be read"),
    (lambda folder: (folder / "selected_tags.csv").write_text("a,b\n1,2\n"), "no table of tags"),
    (lambda folder: save_tagger(folder, tags=TAGS[:-1]), "6 probabilities, but selected_tags.csv lists 5"),
])  # fmt: skip
def test_what_is_no_tagger_is_told(tmp_path: Path, spoil, message: str) -> None:
    spoil(save_tagger(tmp_path))
    with pytest.raises(UserError, match=message):
        Tagger(tmp_path, TagChoice(), "cpu")([flat(0, 0, 0)])


def test_a_missing_onnxruntime_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="pip install onnxruntime"):
        Tagger(save_tagger(tmp_path), TagChoice(), "cpu")


@pytest.mark.parametrize(
    ("mode", "with_caption"),
    [("only_missing", "hat, long_hair\n"), ("replace", "long hair"), ("append", "hat, long_hair\n"), ("prepend", "hat, long_hair\n")],
)  # fmt: skip
def test_modes_on_the_command_line(tmp_path: Path, mode: str, with_caption: str) -> None:
    tagger, folder = save_tagger(tmp_path / "tagger"), tmp_path / "pictures"
    folder.mkdir()
    for name in ("with", "without"):
        flat(0.5, 0, 0).save(folder / f"{name}.png")
    (folder / "with.txt").write_text("hat, long_hair\n")
    words = ["dataset", "caption", str(folder), "--tagger", str(tagger), "--mode", mode, "--device", "cpu"]
    assert main(words) == 0 and not (folder / "without.txt").exists()
    assert main([*words, "--apply"]) == 0
    assert (folder / "without.txt").read_text() == "long hair\n"
    assert (folder / "with.txt").read_text() == with_caption
    assert main(["dataset", "caption", str(folder), "--undo", "--apply"]) == 0
    assert not (folder / "without.txt").exists() and (folder / "with.txt").read_text() == "hat, long_hair\n"


def test_edits_are_done_to_what_the_model_writes_alone(tmp_path: Path) -> None:
    tagger, folder = save_tagger(tmp_path / "tagger"), tmp_path / "pictures"
    folder.mkdir()
    for name in ("with", "without"):
        flat(0.5, 0, 0).save(folder / f"{name}.png")
    (folder / "with.txt").write_text("hat\n")
    words = ["dataset", "caption", str(folder), "--tagger", str(tagger), "--device", "cpu", "--prefix", "anna,"]
    assert main([*words, "--apply"]) == 0
    assert (folder / "with.txt").read_text() == "hat\n"
    assert (folder / "without.txt").read_text() == "anna, long hair\n"


def test_new_tags_go_in_front_or_behind_and_edits_follow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tagger, folder = save_tagger(tmp_path / "tagger"), tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        flat(0.5, 0.5, 0).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("hat")
    (folder / "c.png").write_bytes(b"")
    words = ["dataset", "caption", str(folder), "--tagger", str(tagger), "--trigger_word", "anna", "--trigger_first"]
    assert main([*words, "--mode", "prepend", "--show", "1"]) == 0
    assert "shows 1 of the 3 pictures" in capsys.readouterr().out
    assert main([*words, "--mode", "prepend", "--apply"]) == 0
    assert (folder / "a.txt").read_text() == "anna, ^_^, long hair, hat" and (folder / "c.txt").read_text() == "hat"
    assert "c.png is empty (0 bytes). It gets no caption." in capsys.readouterr().out


def test_what_was_described_before_ctrl_c_is_kept(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    calls = []

    def tired(images: Sequence[Image.Image]) -> list[str]:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ["hat"] * len(images)

    texts, unreadable = describe_all(paths, tired, 2, "white")
    assert texts == dict.fromkeys(paths[:4], "hat") and not unreadable and calls == [2, 2, 2]
