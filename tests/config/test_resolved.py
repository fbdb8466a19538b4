from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from library.config.catalog import catalog
from library.config.interpolation import escaped, interpolated
from library.config.load import LoadedConfig, load_config
from library.config.resolved import as_flat_dict, save_resolved, written
from library.config.schema import Config
from library.config.values import is_unset
from library.core.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30) | st.text(
    "\\${}x\"'\n\t\x01\x7f\x85 ", max_size=12
)
KEYS = TEXT
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TITLES = (
    "metadata_title",
    "metadata_author",
    "metadata_description",
    "metadata_license",
    "metadata_tags",
    "training_comment",
)


def test_every_option_is_in_the_flat_table() -> None:
    flat = as_flat_dict(Config())
    assert list(flat) == list(catalog())
    assert flat == {key: declared.default for key, declared in catalog().items()}


def test_a_resolved_file_reproduces_the_configuration(load: Callable[..., LoadedConfig], folder: Path) -> None:
    first = load(
        'extends = ["character"]\ntrigger_word = "alex"\noutput_name = "${trigger_word}"\nnetwork_args = ["conv_dim=4"]\n'
        'optimizer_args = {betas = [0.9, 0.99], eps = 1e-8}\nvae = ""\nmetadata_description = "C:\\\\x\\\\n \\"q\\" ☃"\n'
        '[general]\nkeep_tokens = 2\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "pictures"\n'
        'custom_attributes = {a = [1, "b"]}\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = "pictures"\n'
    )
    save_resolved(first.config, folder / "out" / "resolved.toml")
    second = load_config(["--config", "out/resolved.toml"])
    assert second.config == first.config
    assert second.files == [Path("out/resolved.toml")]
    assert second.sources["network_dim"].startswith("out/resolved.toml:")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7h30m", 27000), ("90m", 5400), ("1d", 86400), ("01:30:00", 5400), ("45", 45), ("0", None)],
)
def test_a_time_is_written_in_a_form_that_reads_back(
    load: Callable[..., LoadedConfig], folder: Path, given: str, seconds: float | None
) -> None:
    first = load(
        f'extends = ["character"]\ntrigger_word = "alex"\nmax_train_time = "{given}"\ntrain_data_dir = "pictures"\n'
    )
    assert first.config.training.max_train_time == seconds
    save_resolved(first.config, folder / "resolved.toml")
    assert load_config(["--config", "resolved.toml"]).config == first.config


@pytest.mark.parametrize("given", ["-1", "7 parsecs", "1:2:3", "9" * 5000, "true"])
def test_what_is_no_time_is_refused(load: Callable[..., LoadedConfig], given: str) -> None:
    with pytest.raises(UserError, match="max_train_time"):
        load(f'max_train_time = "{given}"\n')


def test_a_resolved_demo_run_is_not_laid_over_again(folder: Path) -> None:
    first = load_config(["--config", "character", "--max_train_steps", "3"])
    save_resolved(first.config, folder / "resolved.toml")
    second = load_config(["--config", "resolved.toml"])
    assert second.config == first.config
    assert second.notices == []


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXT, min_size=6, max_size=6), attributes=st.dictionaries(KEYS, VALUES, min_size=2, max_size=5))
def test_any_text_survives_the_resolved_file(folder: Path, texts: list[str], attributes: dict[str, Any]) -> None:
    titles = {key: text for key, text in zip(TITLES, texts, strict=True) if not is_unset(text)}
    config = Config()
    subset = {"image_dir": "pictures", "custom_attributes": attributes}
    config = replace(
        config,
        model=replace(config.model, pretrained_model_name_or_path="model.safetensors"),
        saving=replace(config.saving, **titles),
        captions=replace(config.captions, caption_separator=texts[0], caption_prefix="C:\\new\\x41\\"),
        data=replace(config.data, datasets=[{"subsets": [subset]}]),
    )
    save_resolved(config, folder / "resolved.toml")
    assert load_config(["--config", "resolved"]).config == config


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_what_is_written_as_toml_reads_back(value: Any) -> None:
    assert tomllib.loads(written({"section": {"key": value}})) == {"section": {"key": value}}


def test_a_value_that_toml_cannot_hold_is_named(folder: Path) -> None:
    config = Config()
    broken = replace(config, saving=replace(config.saving, metadata_title="\ud800"))
    with pytest.raises(UserError, match="metadata_title"):
        save_resolved(broken, folder / "resolved.toml")
    assert not (folder / "resolved.toml").exists()


@settings(max_examples=200, deadline=None)
@given(before=TEXT, between=TEXT, after=TEXT)
def test_text_around_references_is_kept(before: str, between: str, after: str) -> None:
    values = {"a": f"{before}${{b}}{between}${{b}}{after}", "b": "B"}
    resolved, failed = interpolated(values, {"a": "", "b": ""})
    assert failed == {}
    assert resolved["a"] == f"{before}B{between}B{after}"


@pytest.mark.parametrize("first", ["${a}", "${b}"])
def test_references_that_never_end_are_refused_at_once(first: str) -> None:
    keys = "abcdefghijklmnop"
    values = {key: f"${{{following}}}" * 40 for key, following in pairwise(keys)} | {"p": first}
    resolved, failed = interpolated(values, dict.fromkeys(keys, ""))
    assert resolved == {} and failed.keys() == set(keys)
    assert all("in a circle" in told for told in failed.values())
    _, failed = interpolated(values | {"p": "x" * 9}, dict.fromkeys(keys, ""))
    assert "more than 10000 characters" in failed["a"] and failed.keys() == set(keys[:-2])


def test_escaping_keeps_only_references_to_known_keys() -> None:
    assert escaped("${a} ${b} ${", {"a"}) == "${a} \\${b} \\${"
    assert escaped({"x": ["\\${a}"]}, {"a"}) == {"x": ["\\\\${a}"]}
