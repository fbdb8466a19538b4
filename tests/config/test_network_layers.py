"""The tables of network_layers as they are read; which layers they mean is tested in tests/networks/test_layers.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from library.config.load import LoadedConfig, load_config
from library.config.resolved import save_resolved
from library.config.schema.layers import parse_layers
from library.core.errors import UserError

Load = Callable[..., LoadedConfig]

TABLES = """\
network_dim = 8

[[network_layers]]
match = "attn2, OUT03-OUT05 ff"
dim = "32"
alpha = 16

[[network_layers]]
match = ["te1"]
lr_scale = 1
alpha = ""
"""
READ = [{"match": ["attn2", "OUT03-OUT05 ff"], "dim": 32, "alpha": 16.0}, {"match": ["te1"], "lr_scale": 1.0}]


def test_tables_are_typed_and_read_back(load: Load, folder: Path) -> None:
    first = load(TABLES)
    assert first.config.network.network_layers == READ
    assert first.sources["network_layers"] == "my.toml:3"
    save_resolved(first.config, folder / "resolved.toml")
    assert load_config(["--config", "resolved.toml"]).config == first.config


@pytest.mark.parametrize(
    "words",
    [
        ('[{match = "attn2, OUT03-OUT05 ff", dim = 32, alpha = 16}, {match = "te1", lr_scale = 1}]',),
        ('{match = ["attn2", "OUT03-OUT05 ff"], dim = 32, alpha = 16}', '{match = "te1", lr_scale = 1}'),
    ],
)
def test_tables_on_the_command_line(load: Load, words: tuple[str, ...]) -> None:
    loaded = load("", "--network_layers", *words)
    assert loaded.config.network.network_layers == READ
    assert loaded.sources["network_layers"] == "command line"


def test_all_mistakes_are_told_at_once_with_file_and_line(load: Load) -> None:
    text = """
[[network_layers]]
match = "attn2"
dims = 32
alpha = "x"
[[network_layers]]
dim = -1
match = 3
[[network_layers]]
lr = 1
lr_scale = 2
[[network_layers]]
match = " "
"""
    with pytest.raises(UserError) as caught:
        load(text)
    message = str(caught.value)
    assert message.startswith("my.toml:2: network_layers = ")
    for part in (
        "expected tables of match, dim, alpha, lr, lr_scale, but ",
        "network_layers[0] has no field 'dims'. Did you mean 'dim'?",
        'network_layers[0] has alpha = "x" instead of a number',
        "network_layers[1] has match = 3 instead of a list in which each value is text in quotes",
        "network_layers[1] has dim = -1 instead of at least 0",
        "network_layers[2] has no match",
        "network_layers[2] sets both lr and lr_scale",
        "network_layers[3] has no match",
        "network_layers[3] sets neither dim, alpha, lr nor lr_scale",
    ):
        assert part in message


@pytest.mark.parametrize("value", ["attn2=8", "[1]", 3, ["attn2"], "{match = }", None])
def test_what_is_no_table(value: Any) -> None:
    with pytest.raises(ValueError, match=r"tables such as \{match"):
        parse_layers(value)
