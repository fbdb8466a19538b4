"""Configs as sd-scripts' users have them come to the settings that they mean, and train.

Each config lies in tests/golden/sd_scripts beside a table of what it means: every option that is not its default, the data
sets, what is warned of, and the names in the LoRA file, counted by hand for the tiny models. Paths in them are `@words@`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file

import train_network
from library.config.catalog import by_any_name, catalog
from library.config.dataset import resolve_datasets
from library.config.load import LoadedConfig, load_config
from library.models.published import recipe
from library.models.random_weights import write_single_file

CONFIGS = Path(__file__).resolve().parents[1] / "golden" / "sd_scripts"
NAMES = sorted(path.name.removesuffix(".expected.toml") for path in CONFIGS.glob("*.expected.toml"))
LORA = ["alpha", "lora_down.weight", "lora_up.weight"]

SMALL = {
    "resolution": 64,
    "min_bucket_reso": 32,
    "max_bucket_reso": 128,
    "bucket_reso_steps": 16,
    "max_train_epochs": 0,
    "max_train_steps": 3,
    "lr_warmup_steps": 0,
    "attention": "sdpa",
    "progress": "false",
}
"""What makes a config quick; laid over it on the command line."""


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, models: Callable[..., Path]) -> dict[str, str]:
    """The path that each `@word@` of the configs stands for, but those of the run itself."""
    root = tmp_path_factory.mktemp("sd_scripts")
    _pictures(root / "character" / "3_rin woman", [(64, 64), (64, 64), (96, 64), (64, 96)], "rin, (smile:1.2), hat")
    _pictures(root / "style" / "2_inkwash", [(80, 64)] * 3, "inkwash, river", ending=".caption")
    _pictures(root / "regularisation" / "1_woman", [(64, 64)] * 2)
    _pictures(root / "masks", [(64, 64), (64, 64), (96, 64), (64, 96)])
    _pictures(root / "cutouts", [(64, 64)] * 2, "rin", mode="RGBA")
    _pictures(root / "wildcards", [(64, 64)] * 2, "rin, {red|blue} hat ||| long hair;;;braid, smile ||| sky\nrin, ink")
    _pictures(root / "tagged", [(64, 64)] * 3)
    entries = {
        f"{root.as_posix()}/tagged/{n}.png": {"caption": "a fighter", "tags": f"kick, red {n}"} for n in range(3)
    }
    lines = [{"image_path": path, **entry} for path, entry in entries.items()]
    prompts = [{"prompt": "rin", "sample_steps": 1, "width": 64, "height": 64, "seed": 3}, {"prompt": "hat", "seed": 4}]
    shared = "[prompt]\nsample_steps = 1\nwidth = 64\nheight = 64\n"
    texts = {
        "metadata_json": ("meta.json", json.dumps(entries)),
        "metadata_jsonl": ("meta.jsonl", "\n".join(map(json.dumps, lines))),
        "prompts_txt": ("a.txt", "# two\nrin --n bad --w 64 --h 64 --d 3 --s 1 --l 5\nhat --w 64 --h 64 --s 1 --ss ddim\n"),
        "prompts_toml": ("a.toml", f'{shared}[[prompt.subset]]\nprompt = "rin"\n[[prompt.subset]]\nprompt = "hat"\nseed = 4\n'),
        "prompts_json": ("a.json", json.dumps([prompts[0], {**prompts[0], **prompts[1]}])),
    }  # fmt: skip
    for name, text in texts.values():
        (root / name).write_text(text, encoding="utf-8")
    save_file(_lora_of_sd_scripts(), root / "lora.safetensors")
    write_single_file(recipe("sdxl", tiny=True), root / "sdxl_v.safetensors", marks=("v_pred", "ztsnr"))
    folders = ("character", "style", "regularisation", "masks", "cutouts", "wildcards", "tagged")
    paths = {
        **{folder: root / folder for folder in folders},
        **{word: root / name for word, (name, _) in texts.items()},
        "lora": root / "lora.safetensors",
        "sd15": models("sd15"),
        "sd15_file": models("sd15", "single_file"),
        "sd2_v": models("sd2_v"),
        "sdxl": models("sdxl"),
        "sdxl_vpred_file": root / "sdxl_v.safetensors",
    }
    return {word: path.as_posix() for word, path in paths.items()}


def _pictures(
    folder: Path, sizes: Sequence[tuple[int, int]], caption: str = "", ending: str = ".txt", mode: str = "RGB"
) -> None:
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        picture = Image.new(mode, size, (40 * number, 200, 90, 0)[: len(mode)])
        ImageDraw.Draw(picture).ellipse((8, 8, size[0] - 8, size[1] - 8), fill=(250, 10, 60 * number))
        picture.save(folder / f"{number}.png")
        if caption:
            (folder / f"{number}{ending}").write_text(f"{caption}, view {number}", encoding="utf-8")


def _lora_of_sd_scripts() -> dict[str, torch.Tensor]:
    """A LoRA file with ranks and alphas of its own, of two layers of the tiny UNet (1x1 convolutions) and two of the text encoder."""
    draw = torch.Generator().manual_seed(0)
    sites = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (3, 64, 256, ()),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj": (3, 64, 64, ()),
        "lora_unet_down_blocks_0_attentions_0_proj_in": (6, 32, 32, (1, 1)),
        "lora_unet_mid_block_attentions_0_proj_out": (6, 64, 64, (1, 1)),
    }
    tensors = {}
    for name, (rank, inputs, outputs, kernel) in sites.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inputs, *kernel, generator=draw).half()
        tensors[f"{name}.lora_up.weight"] = 0.01 * torch.randn(outputs, rank, *kernel, generator=draw).half()
        tensors[f"{name}.alpha"] = torch.tensor(2.0).half()
    return tensors


class Case:
    """One config, with its words replaced by paths, and what is expected of it."""

    def __init__(self, name: str, material: dict[str, str], folder: Path, small: bool) -> None:
        paths = {**material, "out": (folder / "out").as_posix(), "dataset": (folder / "data.toml").as_posix()}

        def filled(file: Path) -> str:
            return re.sub(r"@(\w+)@", lambda match: paths[match[1]], file.read_text(encoding="utf-8"))

        dataset = CONFIGS / f"{name}.dataset.toml"
        if dataset.exists():
            text = filled(dataset)
            (folder / "data.toml").write_text(shrunk(text) if small else text, encoding="utf-8")
        self.expected: dict[str, Any] = tomllib.loads(filled(CONFIGS / f"{name}.expected.toml"))
        if (CONFIGS / f"{name}.txt").exists():
            words = shlex.split(filled(CONFIGS / f"{name}.txt").replace("\\\n", " "))
            script = next(number for number, word in enumerate(words) if word.endswith("train_network.py"))
            self.argv = words[script + 1 :]
            self.written = {word[2:].partition("=")[0] for word in self.argv if word.startswith("--")}
        else:
            file = folder / f"{name}.toml"
            file.write_text(filled(CONFIGS / file.name), encoding="utf-8")
            self.argv = ["--config_file", file.with_suffix("").as_posix()]
            content = tomllib.loads(file.read_text(encoding="utf-8"))
            sections = [value if isinstance(value, dict) else {key: value} for key, value in content.items()]
            self.written = {key for section in sections for key in section}


def shrunk(dataset: str) -> str:
    """A dataset TOML whose sizes are an eighth, in steps that the tiny models can have."""
    sizes = re.compile(r"^(\s*(?:resolution|min_bucket_reso|max_bucket_reso) = )(.*)$", re.MULTILINE)
    eighth = sizes.sub(lambda line: line[1] + re.sub(r"\d+", lambda n: str(int(n[0]) // 8), line[2]), dataset)
    steps = re.sub(r"bucket_reso_steps = \d+", "bucket_reso_steps = 16", eighth)
    return re.sub(r"enable_bucket = true", "enable_bucket = true\nmin_bucket_reso = 32", steps)


def differences(loaded: LoadedConfig) -> dict[str, Any]:
    """Every option that is not its default."""
    values = {key: getattr(getattr(loaded.config, declared.group), key) for key, declared in catalog().items()}
    return {key: value for key, value in values.items() if value != catalog()[key].default}


@pytest.fixture
def with_xformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where xformers is installed, which most guides ask for."""
    honest = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if name == "xformers" else honest(name))


@pytest.mark.usefixtures("with_xformers")
@pytest.mark.parametrize("name", NAMES)
def test_it_means_what_its_author_meant(name: str, material: dict[str, str], tmp_path: Path) -> None:
    case = Case(name, material, tmp_path, small=False)
    loaded = load_config(case.argv)
    assert differences(loaded) == case.expected["settings"]
    datasets, _ = resolve_datasets(loaded.config)
    if "datasets" in case.expected:
        assert len(datasets) == len(case.expected["datasets"])
    for dataset, asked in zip(datasets, case.expected.get("datasets", [])):
        parts = asked.pop("subsets")
        assert {key: getattr(dataset.buckets, key) for key in asked} == asked
        assert [subset_like(subset, part) for subset, part in zip(dataset.subsets, parts, strict=True)] == parts


def subset_like(subset: Any, keys: dict[str, Any]) -> dict[str, Any]:
    """The subset's values of these keys, in TOML's types."""
    found = {**vars(subset.captions), **vars(subset.images), **vars(subset)}
    values = {key: found[key] for key in keys}
    return {key: value.as_posix() if isinstance(value, Path) else value for key, value in values.items()}


@pytest.mark.usefixtures("with_xformers")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_it_is_ignored_in_silence(name: str, material: dict[str, str], tmp_path: Path) -> None:
    """Each key is an option, or a warning names it and why; and what is expected to be warned of is."""
    case = Case(name, material, tmp_path, small=False)
    loaded = load_config(case.argv)
    said = "\n".join(loaded.warnings)
    known = by_any_name(catalog())
    off = {"debug_dataset", "use_8bit_adam", "save_model_as"} | {"xformers", "sdpa", "mem_eff_attn"}
    silent = {key for key in case.written if key not in known and f"'{key}'" not in said}
    assert silent <= off
    assert [words for words in case.expected.get("warnings", []) if words not in said] == []


@pytest.mark.parametrize("name", NAMES)
def test_it_trains(
    name: str,
    material: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = Case(name, material, tmp_path, small=True)
    quick = [word for key, value in SMALL.items() for word in (f"--{key}", str(value))]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        sys, "argv", ["train_network.py", *case.argv, *quick, "--cache_dir", (tmp_path / "cache").as_posix()]
    )
    threads = torch.get_num_threads()
    assert train_network.main() == 0
    torch.set_num_threads(threads)
    out, expected = tmp_path / "out", case.expected
    with safe_open(out / f"{expected['settings']['output_name']}.safetensors", framework="pt") as file:
        metadata, keys = file.metadata(), sorted(file.keys())
        ranks = {site: file.get_tensor(f"{site}.lora_down.weight").shape[0] for site in expected.get("ranks", {})}
    assert metadata["ss_base_model_version"] == expected["base"]
    sites = {key.partition(".")[0] for key in keys}
    names = Counter("lora_unet" if "_text_model_" not in site else site.partition("_text_model_")[0] for site in sites)
    assert names == expected["names"]
    assert sorted({key.partition(".")[2] for key in keys}) == expected.get("suffixes", LORA)
    assert ranks == expected.get("ranks", {})
    assert {each for each in expected.get("also", []) if not (out / each).exists()} == set()
    samples = list((out / "sample").iterdir()) if (out / "sample").exists() else []
    assert len(samples) >= expected.get("samples", 0)
    assert not [record.message for record in caplog.records if "training goes on" in record.message]
