"""The package's tokenizer against transformers' CLIPTokenizer over the same vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from library.core.errors import UserError
from library.models import tokenizers
from library.models.tokenizers import CLIP_BOS, CLIP_EOS, FolderTokenizer, clip_tokenizer

instant_clip_tokenizer = pytest.importorskip("instant_clip_tokenizer")

PROMPTS = [
    "",
    "a photo of a cat",
    "1girl, alxndr, (boxing gloves:1.2), upper body, looking at viewer, masterpiece, best quality",
    "A Very LOUD Knight's sword -- isn't it? they'll've seen 'em",
    "score_9, score_8_up, rating_safe, year 2023, 8k uhd, f/1.8, 35mm",
    "naïve café über straße, 日本語の猫, 🥊🥋",
    "hyphen-ated under_scored dotted.words <lora:thing:0.8> {a|b} [x] \\(escaped\\)",
    "   spaces   and\ttabs\nand lines  ",
    "antidisestablishmentarianism supercalifragilisticexpialidocious kungfustyle mmastyle",
    "!!! ... ??? ,,, 12345 3.14159 x2",
]


def merges_in_the_package() -> list[str]:
    """The merges of CLIP's vocabulary, out of the package's compiled library, which holds them as text."""
    (binary,) = Path(instant_clip_tokenizer.__file__).parent.glob("*instant_clip_tokenizer*.*[od]*")
    content = binary.read_bytes()
    start = content.index(b"#version: 0.2\n") + len(b"#version: 0.2\n")
    merges = content[start : start + 1_500_000].decode("utf-8", errors="ignore").split("\n")[:48894]
    assert all(merge.count(" ") == 1 for merge in merges)
    return merges


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """CLIP's own tokenizer as transformers writes it, built by the rule of the original: bytes, bytes at ends, merges."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges = merges_in_the_package()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable]
    letters += [chr(256 + number) for number in range(256 - len(letters))]
    assert set(letters) == set(ByteLevel.alphabet())
    words = letters + [letter + "</w>" for letter in letters] + [merge.replace(" ", "") for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    assert len(words) == 49408
    vocabulary = {word: number for number, word in enumerate(words)}
    folder = tmp_path_factory.mktemp("clip")
    CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def transformers_clip(clip_folder):
    return FolderTokenizer(clip_folder).read


@pytest.mark.parametrize("prompt", PROMPTS)
def test_package_and_transformers_agree(transformers_clip, prompt):
    package = tokenizers.packaged_tokenizer(pad=CLIP_EOS)
    ours, theirs = package.encode(prompt), transformers_clip.encode(prompt)
    assert ours == theirs
    assert bool(ours) == bool(prompt.strip())


def test_a_known_prompt_has_the_numbers_of_clip(transformers_clip):
    # a photo of a cat: the numbers in OpenAI's own notebook
    expected = [320, 1125, 539, 320, 2368]
    assert tokenizers.packaged_tokenizer(pad=0).encode("a photo of a cat") == expected
    assert transformers_clip.encode("a photo of a cat") == expected


def test_a_folder_says_how_it_pads(tiny, transformers_clip):
    assert transformers_clip.pad == CLIP_EOS
    assert FolderTokenizer(tiny("sdxl", "folder") / "tokenizer").pad == CLIP_EOS
    second = FolderTokenizer(tiny("sdxl", "folder") / "tokenizer_2")
    assert (second.pad, second.bos, second.eos) == (0, CLIP_BOS, CLIP_EOS)


def test_the_option_comes_first(clip_folder, tiny):
    assert clip_tokenizer(str(clip_folder), pad=0).encode("cat") == [2368]
    model_folder = tiny("sd15", "folder")  # the tokenizer in it is found
    assert len(clip_tokenizer(str(model_folder), pad=0).encode("cat")) == 3


def test_an_option_that_leads_nowhere_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"tokenizer = '.*' is no CLIP tokenizer"):
        clip_tokenizer(str(tmp_path), pad=0)


def test_lack_of_memory_is_not_taken_for_damage(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", lambda *given, **settings: bytearray(1 << 60))
    with pytest.raises(MemoryError):
        clip_tokenizer(str(tmp_path), pad=0)


def test_without_any_tokenizer_the_error_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install instant-clip-tokenizer"):
        clip_tokenizer(None, pad=0)


def test_the_hub_cache_is_looked_into(monkeypatch, tmp_path, clip_folder):
    from transformers import CLIPTokenizer

    repository = tmp_path / "models--openai--clip-vit-large-patch14"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    snapshot = repository / "snapshots" / "abc"
    CLIPTokenizer.from_pretrained(clip_folder).save_pretrained(snapshot)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder).backend_tokenizer
    tokenizer.model.save(str(snapshot))  # vocab.json and merges.txt, as the hub has them
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    assert clip_tokenizer(None, pad=0).encode("a photo of a cat") == [320, 1125, 539, 320, 2368]


def test_fingerprints_tell_vocabularies_and_padding_apart(transformers_clip, tiny):
    prints = {
        transformers_clip.fingerprint(),
        replace(transformers_clip, pad=0).fingerprint(),
        FolderTokenizer(tiny("sd15", "folder") / "tokenizer").fingerprint(),
        tokenizers.packaged_tokenizer(pad=0).fingerprint(),
        tokenizers.packaged_tokenizer(pad=CLIP_EOS).fingerprint(),
    }
    assert len(prints) == 5
