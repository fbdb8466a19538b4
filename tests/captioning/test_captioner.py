"""Captioners, on a real BLIP with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from library.captioning.captioner import Captioner, Wording
from library.cli.main import main
from library.core.errors import UserError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "[ENC]",
    "a",
    "red",
    "blue",
    "picture",
    "of",
    "hat",
    "##s",
]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), additional_special_tokens=["[DEC]", "[ENC]"])
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **size, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3,
        "pad_token_id": 0, "max_position_embeddings": 64,
    }  # fmt: skip
    torch.manual_seed(0)
    config = BlipConfig(text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    return [
        Image.new("RGB", size, colour) for size, colour in (((20, 30), "red"), ((64, 16), "blue"), ((9, 9), "white"))
    ]


def test_captions_are_those_of_the_model_called_directly(blip: Path) -> None:
    model, processor = BlipForConditionalGeneration.from_pretrained(blip).eval(), BlipProcessor.from_pretrained(blip)
    expected = []
    for image in pictures():
        with torch.no_grad():
            tokens = model.generate(**processor(images=image, return_tensors="pt"), num_beams=2, max_new_tokens=6)
        expected.append(" ".join(processor.decode(tokens[0], skip_special_tokens=True).split()))
    captioner = Captioner(blip, Wording(num_beams=2, max_length=6), "cpu")
    assert captioner(pictures()) == expected and any(expected)


def test_a_prompt_begins_the_caption(blip: Path) -> None:
    found = Captioner(blip, Wording(prompt="a picture of", max_length=4), "cpu", "bf16")(pictures())
    assert len(found) == 3 and all(text.startswith("a picture of") for text in found)


def test_what_is_no_captioner_is_told(blip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        Captioner(tmp_path, Wording(), "cpu")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        Captioner(tmp_path, Wording(), "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            Captioner(blip, Wording(), "cuda")


def test_a_package_that_is_lacking_is_told(blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise ImportError("Package `num2words` is required. Install it with `pip install num2words`.")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lacking)
    with pytest.raises(UserError, match=r"a package that is not installed: .*pip install num2words"):
        Captioner(blip, Wording(), "cpu")


def test_weights_of_other_shapes_are_told(blip: Path, tmp_path: Path) -> None:
    shutil.copytree(blip, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"weights of the captioner .* download both again"):
        Captioner(tmp_path, Wording(), "cpu")


def test_code_in_the_folder_is_not_run(blip: Path, tmp_path: Path) -> None:
    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        Captioner(tmp_path, Wording(), "cpu")
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_read_when_asked_for_alone(blip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    for file in blip.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(blip / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="--allow_pickle"):
        Captioner(tmp_path, Wording(), "cpu")
    same = Captioner(tmp_path, Wording(max_length=5), "cpu", allow_pickle=True)(pictures())
    assert same == Captioner(blip, Wording(max_length=5), "cpu")(pictures())


def test_on_the_command_line(blip: Path, tmp_path: Path) -> None:
    for number, image in enumerate(pictures()):
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "0.txt").write_text("a hat")
    words = [
        "dataset",
        "caption",
        str(tmp_path),
        "--captioner",
        str(blip),
        "--prompt",
        "a picture of",
        "--max_length",
        "3",
    ]
    assert main([*words, "--template", "{caption}, anna", "--mode", "append", "--device", "cpu", "--apply"]) == 0
    texts = [(tmp_path / f"{number}.txt").read_text() for number in range(3)]
    assert texts[0].startswith("a hat, a picture of") and texts[1].startswith("a picture of")
    assert all(text.strip().endswith(", anna") for text in texts)
