from __future__ import annotations

from pathlib import Path

import pytest

from library.config.places import reachable
from library.config.toml_files import line_numbers, read_settings
from library.core.errors import UserError

TEXT = '''# a comment with network_dim = 3
network_dim = 4
training_comment = """
seed = 1   # text, no key
"""
network.network_alpha = 2

["quoted section"]   # a remark
"seed" = 5
validation_timesteps = [
  1,
  2,
]
[network_args]
conv_dim = 4
[optimizer]
optimizer_args = {betas = [0.9, 0.99]}
'''


def test_keys_are_found_on_their_lines() -> None:
    lines = line_numbers(TEXT)
    assert lines["", "network_dim"] == 2
    assert lines["", "training_comment"] == 3
    assert lines["network", "network_alpha"] == 6
    assert lines["quoted section", "seed"] == 9
    assert lines["quoted section", "validation_timesteps"] == 10
    assert lines["", "network_args"] == 14


def test_settings_come_with_their_places(folder: Path) -> None:
    Path("x.toml").write_text(TEXT, encoding="utf-8")
    found = {setting.key: (setting.value, setting.source) for setting in read_settings(Path("x.toml"))}
    assert found == {
        "network_dim": (4, "x.toml:2"),
        "training_comment": ("seed = 1   # text, no key\n", "x.toml:3"),
        "network_alpha": (2, "x.toml:6"),
        "seed": (5, "x.toml:9"),
        "validation_timesteps": ([1, 2], "x.toml:10"),
        "network_args": ({"conv_dim": 4}, "x.toml:14"),
        "optimizer_args": ({"betas": [0.9, 0.99]}, "x.toml:17"),
    }


@pytest.mark.parametrize("path", [r"C:\models\x", r"C:\users\me"])
def test_backslashes_in_double_quotes_are_explained(folder: Path, path: str) -> None:
    Path("x.toml").write_text(f'seed = 1\nvae = "{path}"\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.toml:2: .*a path with backslashes stands in single quotes"):
        read_settings(Path("x.toml"))


def test_backslashes_that_were_read_as_tabs_and_line_ends_are_explained() -> None:
    with pytest.raises(ValueError, match="write backslashes in single quotes"):
        reachable("C:\new\table")
