"""The drop-in table: every option of sd-scripts has its fate, and its default where it is an option here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from library.config.catalog import by_any_name, catalog
from library.config.dataset_tables import dataset_keys, subset_keys
from library.config.load import LoadedConfig, load_config
from library.config.places import PROJECT_ROOT
from library.config.sd_scripts.facts import (
    HANDLED_FIRST,
    NOTES,
    OTHER_DEFAULTS,
    all_options,
    facts,
    fate,
    is_known,
)
from library.config.sd_scripts.page import PAGE, page
from library.config.spellings import FLAGS, GUI_EXTRAS, NEEDLESS, OF_OTHER_FAMILIES, ONLY_VALUE, REFUSED
from library.core.errors import UserError

Load = Callable[..., LoadedConfig]


def their_default(fact: Mapping[str, Any]) -> Any:
    """An option's default in sd-scripts; None where it is unset."""
    return fact.get("default", False if fact["type"] == "flag" else None)


SOME_VALUE = {"flag": True, "str": "x", "int": 7, "float": 0.5, "steps": 7, "list": ["x"]}


def test_the_facts_are_all_there() -> None:
    """A line lost from the facts would leave an option without a fate, unseen by every other test here."""
    assert len(facts()["train_network"]) == 194
    assert len(facts()["sdxl_train_network"]) == 3
    assert {fact["type"] for fact in all_options().values()} == SOME_VALUE.keys()
    assert {"network_args", "optimizer_args", "text_encoder_lr", "base_weights"} <= {
        name for name, fact in all_options().items() if fact["type"] == "list"
    }


@pytest.mark.parametrize("name", all_options())
def test_each_option_has_exactly_one_fate(name: str) -> None:
    tables = (by_any_name(catalog()), FLAGS, NEEDLESS, REFUSED, ONLY_VALUE, HANDLED_FIRST)
    assert sum(name in table for table in tables) == 1
    assert fate(name) is not None
    assert name not in GUI_EXTRAS and name not in OF_OTHER_FAMILIES


def test_reasons_are_for_options_that_there_are() -> None:
    assert OTHER_DEFAULTS.keys() <= all_options().keys() & catalog().keys()
    assert NOTES.keys() <= all_options().keys()


def test_every_shared_default_is_sd_scripts() -> None:
    others = {}
    for name in all_options().keys() & catalog().keys():
        theirs = their_default(all_options()[name])
        ours = catalog()[name].default
        if theirs != ours and not (theirs in (None, "") and ours in (None, [], {})):
            others[name] = (theirs, ours)
    del others["optimizer_type"]  # theirs is empty text for AdamW
    assert others.keys() == OTHER_DEFAULTS.keys()


def test_every_default_of_sd_scripts_may_be_written_out(folder: Path) -> None:
    """As `output_config` and GUIs do; nothing becomes otherwise but the defaults that differ."""
    written = {name: their_default(fact) for name, fact in all_options().items() if "default" in fact}
    words = [word for name, value in written.items() for word in (f"--{name}", str(value))]
    given = ["--pretrained_model_name_or_path", "model.safetensors", "--train_data_dir", "pictures"]
    plain, loaded = load_config(given), load_config([*given, *words])
    assert loaded.config.captions.caption_extension == ".caption"
    changed = {key for key, source in loaded.sources.items() if source == "command line"}
    assert changed >= {"learning_rate", "network_alpha", "huber_c"}
    assert loaded.config.optimizer == plain.config.optimizer
    assert loaded.config.schedule == plain.config.schedule
    assert loaded.config.buckets == plain.config.buckets
    assert loaded.config.loss == plain.config.loss and loaded.config.noise == plain.config.noise
    assert loaded.config.network == plain.config.network


@pytest.mark.parametrize("name", [*NEEDLESS, *REFUSED, *GUI_EXTRAS, *sorted(OF_OTHER_FAMILIES), *ONLY_VALUE])
def test_nothing_is_left_out_in_silence(load: Load, name: str) -> None:
    value = SOME_VALUE[all_options().get(name, {"type": "str"})["type"]]
    line = f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
    told: list[str]
    try:
        told = load(line).warnings
        assert name in NEEDLESS or name in GUI_EXTRAS
    except UserError as error:
        told = str(error).splitlines()
        assert name not in NEEDLESS and name not in GUI_EXTRAS
    assert len([text for text in told if name in text]) == 1


def test_every_key_that_kohyas_gui_writes_is_known() -> None:
    assert [name for name in facts()["kohya_gui"]["keys"] if not is_known(name)] == []
    assert not is_known("network_dimm")


def test_every_key_of_the_dataset_tables_is_an_option_at_its_levels() -> None:
    levels = facts()["dataset_keys"]
    assert set(levels["general_and_datasets"]) <= dataset_keys().keys() - subset_keys().keys()
    assert set(levels["all_levels"]) <= dataset_keys().keys() & subset_keys().keys()
    assert set(levels["subsets"]) <= subset_keys().keys()
    assert len({name for names in levels.values() for name in names}) == 39


@pytest.mark.parametrize("level", ["general_and_datasets", "all_levels", "subsets"])
def test_values_of_the_dataset_tables_are_taken(load: Load, level: str) -> None:
    values: dict[str, Any] = {
        "batch_size": 2, "bucket_no_upscale": "true", "bucket_reso_steps": 32, "enable_bucket": "true", "max_bucket_reso": 2048,
        "min_bucket_reso": 128, "resolution": "[768, 512]", "skip_image_resolution": 384, "network_multiplier": 0.5,
        "validation_seed": 3, "validation_split": 0.1, "color_aug": "true", "face_crop_aug_range": "[1.0, 2.0]", "flip_aug": "true",
        "num_repeats": 3, "random_crop": "true", "shuffle_caption": "true", "keep_tokens": 1, "keep_tokens_separator": "'|||'",
        "secondary_separator": "';;;'", "caption_separator": "';'", "enable_wildcard": "true", "token_warmup_min": 2,
        "token_warmup_step": 0.1, "caption_prefix": "'a'", "caption_suffix": "'b'", "custom_attributes": "{a = 1}",
        "resize_interpolation": "'cubic'", "caption_dropout_every_n_epochs": 2, "caption_dropout_rate": 0.1,
        "caption_tag_dropout_rate": 0.1, "caption_extension": "'.txt'", "class_tokens": "'c'", "cache_info": "true",
        "image_dir": "'pictures'", "is_reg": "true", "alpha_mask": "true", "conditioning_data_dir": "'pictures'",
    }  # fmt: skip
    lines = [f"{name} = {values[name]}" for name in facts()["dataset_keys"][level] if name in values]
    own = "" if level == "subsets" else "image_dir = 'pictures'"
    tables = {
        "general_and_datasets": "[general]\n{}\n[[datasets]]\n[[datasets.subsets]]\n{}",
        "all_levels": "[[datasets]]\n{}\n[[datasets.subsets]]\n{}",
        "subsets": "[[datasets]]\n[[datasets.subsets]]\n{}\n{}",
    }
    loaded = load(tables[level].format("\n".join(lines), own))
    assert loaded.config.data.datasets
    assert any("'cache_info' has no effect" in warning for warning in loaded.warnings) == (level == "all_levels")


def test_the_page_is_current_and_complete() -> None:
    text = page()
    assert PAGE.read_text(encoding="utf-8") == text, "run: python -m library.config.sd_scripts.page"
    assert all(f"\n| `{name}` | " in text for name in all_options())
    assert all(f"`{name}`" in text for names in facts()["dataset_keys"].values() for name in names)
    assert all(f"`{name}`" in text for names in facts()["network_args"].values() for name in names)


def test_the_page_is_made_without_anything_heavy() -> None:
    code = "import sys, library.config.sd_scripts.page as p; p.page(); print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True, encoding="utf-8"
    )
    assert ran.stdout.strip() == "[]"
