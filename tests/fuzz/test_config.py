"""The configuration: TOML files, the command line, dataset files, and the arguments of plugins."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from library.config.catalog import catalog
from library.config.dataset_tables import subset_keys
from library.config.load import LoadedConfig, load_config
from library.config.options import parse_options
from library.config.resolved import save_resolved, written
from library.config.schema.fields import option, parse_arguments
from library.config.values import convert_option, literal_value
from library.core.errors import UserError
from tests.fuzz.strategies import NESTED, NUMBERS, SCALARS, TEXT, VALUES, as_json, damaged_text, fuzzed, outcome

PRESET = Path("presets/character.toml").read_text(encoding="utf-8")
CONFIG = f'{PRESET}\n[mine]\noutput_name = "${{trigger_word}}"\ntrigger_word = "alex"\nnetwork_args = ["conv_dim=4"]\n'
DATASETS = (
    '[general]\nkeep_tokens = 2\n[[datasets]]\nresolution = [512, 768]\n[[datasets.subsets]]\nimage_dir = "pictures"\n'
    'custom_attributes = {a = [1, "b"]}\n[[datasets.subsets]]\nmetadata_file = "a.json"\nnum_repeats = 2\n'
)
ARGUMENTS = [
    "--config",
    "a.toml",
    "pictures",
    *(f"--{key}" for key in catalog()),
    *(f"--no_{key}" for key in catalog()),
]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("configs"))
        Path("model.safetensors").write_bytes(b"")
        Path("pictures").mkdir()
        Path("pictures/a.png").write_bytes(b"")
        yield


def load(text: str | bytes, *argv: str) -> Any:
    """The file `a.toml` loaded; what loads must also be written down and load again as it is."""
    Path("a.toml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    base = ["--pretrained_model_name_or_path=model.safetensors", "--train_data_dir=pictures"]
    loaded = outcome(lambda: load_config(["--config", "a.toml", *base, *argv]))
    if isinstance(loaded, LoadedConfig):
        outcome(lambda: save_resolved(loaded.config, Path("resolved.toml")))
    return loaded


@fuzzed(30)
@given(damaged_text(CONFIG))
def test_damaged_files(text: str) -> None:
    load(text)


@fuzzed(20)
@given(damaged_text(DATASETS), st.sampled_from(["inline", "data.toml", "data.json"]))
def test_damaged_dataset_tables(text: str, place: str) -> None:
    if place == "inline":
        load(text)
        return
    Path(place).write_bytes(text.encode("utf-8", "surrogateescape"))
    base = ["--pretrained_model_name_or_path=model.safetensors", f"--dataset_config={place}"]
    outcome(lambda: load_config(base))


@fuzzed(60)
@given(
    st.dictionaries(
        st.sampled_from(list(catalog())), VALUES.filter(lambda value: value is not None), min_size=1, max_size=3
    )
)
@example({"save_precision": [1]})
@example({"text_encoder_lr": 10**400})
@example({"lr_warmup_steps": 10**400})
@example({"seed": 10**30})
@example({"reg_data_dir": "a" * 5000})
@example({"vae": "~nobody-of-that-name/x"})
@example({"network_module": "__main__.x"})
@example({"max_bucket_reso": 10**15, "enable_bucket": True})
def test_any_value_of_any_option(options: dict[str, Any]) -> None:
    try:
        text = written({"options": options}).encode()
    except UnicodeEncodeError:
        return
    load(text)


@fuzzed(40)
@given(st.sampled_from(list(catalog())), VALUES)
def test_any_value_is_converted_or_refused(key: str, value: Any) -> None:
    with_reason(lambda: catalog()[key].convert(value))


@fuzzed(40)
@given(st.sampled_from(list(subset_keys())), VALUES)
def test_any_value_of_a_subset(key: str, value: Any) -> None:
    Path("data.json").write_text(as_json({"datasets": [{"subsets": [{"image_dir": "pictures", key: value}]}]}))
    base = ["--pretrained_model_name_or_path=model.safetensors", "--dataset_config=data.json"]
    outcome(lambda: load_config(base))


@fuzzed(40)
@given(st.lists(st.sampled_from(ARGUMENTS) | TEXT.filter(lambda word: "\0" not in word), max_size=6))
@example(["--config", ""])
@example(["--config", "."])
@example(["--extends", "/"])
def test_any_command_line(argv: list[str]) -> None:
    try:
        outcome(lambda: load_config(argv))
    except SystemExit as ended:
        assert ended.code == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 5000 + "]" * 5000, "nested more than 32 deep"),
        ("network_args = {a = " + "[" * 200 + "]" * 200 + "}", "nested more than 32 deep"),
        ("network_args" + ".a" * 20000 + " = 1", "a.toml:1: not valid TOML: A key has more than 64 parts"),
        ("[network_args" + '."a b"' * 20000 + "]", "more than 64 parts"),
        ("seed = " + "9" * 5000, "thousands of digits"),
        ('vae = "a\\u0000b"', r"'a\x00b' holds U+0000"),
        ('extends = ["."]', 'extends = ".": is a folder'),
        ('"\\u001b[31m" = 1', r"unknown key '\x1b[31m'"),
        ("network_dim = " + "9" * 30, "more than 64 bits"),
        ("dataset_repeats = 20260101", "from 1 to 100000"),
    ],
)
def test_what_once_went_wrong_in_a_file(text: str, told: str) -> None:
    found = load(text)
    assert isinstance(found, UserError)
    assert told in str(found)


@pytest.mark.parametrize("key", ["output_name", "log_prefix", "log_tracker_name"])
@pytest.mark.parametrize("value", ["../../x", "/tmp/x", "a/b", "a\\b", "a\x9bb", "ü" * 100])
def test_names_stay_in_their_folder(key: str, value: str) -> None:
    found = load(written({"names": {key: value}}))
    assert isinstance(found, UserError)
    assert key in str(found)


def test_dots_alone_are_no_name() -> None:
    assert isinstance(load('output_name = ".."'), UserError)
    assert isinstance(load('log_tracker_name = ".."'), UserError)


@pytest.mark.parametrize("filler", ["", "x" * 50])
def test_references_that_grow_without_end_are_refused(filler: str) -> None:
    keys = [key for key, declared in catalog().items() if declared.annotation == str | None]
    chain = [f'{key} = "{filler}{f"${{{after}}}" * 9}"' for key, after in pairwise(keys)]
    found = load("\n".join(chain), "--sample_prompts=")
    assert isinstance(found, UserError)
    assert "comes to a text of more than" in str(found)


def test_long_runs_of_backslashes_take_no_time() -> None:
    loaded = load(f"metadata_title = '{chr(92) * 200_000}'")
    assert loaded.config.saving.metadata_title == "\\" * 200_000


def test_a_line_that_opens_a_list_takes_no_time() -> None:
    started = time.perf_counter()
    found = load("network_args = {a = [\n[" + " " * 100_000 + "1,\n2]]}")
    assert isinstance(found, (LoadedConfig, UserError))
    assert time.perf_counter() - started < 10


def test_a_device_is_no_dataset_file() -> None:
    found = outcome(
        lambda: load_config(["--pretrained_model_name_or_path=model.safetensors", "--dataset_config=/dev/zero"])
    )
    assert isinstance(found, UserError)


@fuzzed(30)
@given(NESTED | TEXT | SCALARS | st.sampled_from(["{[1]:2}", "-" * 9000 + "1", "0x" + "f" * 5000, "(" * 9000]))
@example("{[1]:2}")
@example("0x" + "f" * 5000)
def test_any_text_is_a_literal_or_itself(value: Any) -> None:
    assert len(str(literal_value(value))) < 100_000


@dataclass(frozen=True)
class Options:
    """A plugin's."""

    rank: int = option(4, minimum=1)
    scale: float | None = None
    blocks: list[float] | None = None
    names: tuple[str, ...] = ()
    free: Any = None
    on: bool = False


@fuzzed(60)
@given(
    st.dictionaries(
        st.sampled_from(["rank", "scale", "blocks", "names", "free", "on", "other"]) | TEXT, VALUES, max_size=3
    )
    | st.lists(
        TEXT | st.tuples(st.sampled_from(["rank", "scale", "blocks", "free"]), TEXT).map("=".join) | NUMBERS, max_size=3
    )
    | SCALARS
)
def test_any_arguments_of_a_plugin(given_arguments: Any) -> None:
    arguments = with_reason(lambda: convert_option(given_arguments, dict[str, Any], {"parse": parse_arguments}))
    if isinstance(arguments, dict):
        outcome(lambda: parse_options(Options, arguments, "network_args"), "network_args")


def with_reason(convert: Any) -> Any:
    """What a conversion gives; ValueError is its only error, and says what is allowed."""
    try:
        return convert()
    except ValueError as error:
        assert "invalid literal" not in str(error) and "Exceeds" not in str(error), str(error)
        return None
