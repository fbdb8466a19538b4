"""Configs of sd-scripts and its GUIs: whatever is in them, they are converted or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from library.config.sd_scripts.command_text import split_words
from library.config.sd_scripts.conversion import Conversion, convert_source
from library.config.sd_scripts.gui_files import HANDLED, KOHYA, LYCORIS, RENAMED
from library.config.sd_scripts.preset_text import preset_text
from tests.fuzz.strategies import TEXT, VALUES, damaged_text, fuzzed, outcome

COMMAND = (
    'accelerate launch train_network.py --config_file=x \\\n --network_args "conv_dim=4" \'verbose=True\' --output_dir="C:\\a\\" --xformers '
    "--resolution=512,512 --seed 3 --learning_rate=1e-4"
)
EASY = (
    "[[subsets]]\nnum_repeats = 10\nimage_dir = 'x'\n[general_args.args]\nseed = 3\n[general_args.dataset_args]\n"
    "resolution = 768\n[network_args.args.network_args]\nunit = 4\n[optimizer_args.args]\nwarmup_ratio = 0.05\n"
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("sources"))
        yield


def convert(source: str) -> None:
    found = outcome(lambda: convert_source(source))
    if isinstance(found, Conversion):
        assert preset_text(found.config)


@fuzzed(40)
@given(damaged_text(COMMAND))
def test_damaged_command_lines(text: str) -> None:
    convert(text)


@fuzzed(40)
@given(st.lists(TEXT.map(lambda text: text.translate({ord(sign): None for sign in "\"'\\\\"})), max_size=5))
def test_quoted_words_stay_whole(words: list[str]) -> None:
    for quote in "\"'":
        assert split_words(" ".join(f"{quote}{word}{quote}" for word in words)) == words


@fuzzed(40)
@given(damaged_text(EASY))
def test_damaged_files_of_easy_training(text: str) -> None:
    Path("easy.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    convert("easy.toml")


@fuzzed(60)
@given(
    st.dictionaries(st.sampled_from([*HANDLED, *RENAMED, "seed", "subsets", "network_args"]), VALUES, max_size=5),
    st.sampled_from([*KOHYA, *LYCORIS]),
)
def test_any_preset_of_kohyas_gui(values: dict[str, Any], kind: str) -> None:
    Path("preset.json").write_text(json.dumps({"LoRA_type": kind, **values}), encoding="utf-8")
    convert("preset.json")
