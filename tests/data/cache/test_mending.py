"""Damaged indexes: told, and mended from what the data hold."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from library.cli.main import main
from library.data.cache.shards import ROW
from library.data.cache.store import TensorCache

KEYS = [f"{number:040x}" for number in range(1, 7)]


def filled(folder: Path) -> Path:
    """The index of a shard of six entries."""
    cache = TensorCache(folder)
    for number, key in enumerate(KEYS):
        cache.put(key, {"x": torch.full((5,), float(number))})
    cache.flush()
    (index,) = folder.glob("*.index")
    return index


@pytest.mark.parametrize("damage", [b"\xff" * 7, b"\xa5" * ROW.itemsize * 3])
def test_a_damaged_index_is_told_and_its_entries_are_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    index = filled(tmp_path / "latents")
    whole = index.read_bytes()
    index.write_bytes(whole[: ROW.itemsize] + damage + whole[ROW.itemsize + len(damage) :])
    with caplog.at_level(logging.WARNING, "dojo"):
        cache = TensorCache(tmp_path / "latents")
        found = [cache.get(key) for key in KEYS]
    assert [None if each is None else each["x"].tolist() for each in found] == [[float(n)] * 5 for n in range(6)]
    assert "is damaged in" in caplog.text and str(index) in caplog.text


def test_verify_tells_of_damage_once_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = filled(tmp_path / "latents")
    whole = bytearray(index.read_bytes())
    whole[40] ^= 1
    index.write_bytes(whole)
    data = bytearray(index.with_suffix(".data").read_bytes())
    data[-3] ^= 1
    index.with_suffix(".data").write_bytes(data)
    command = ["cache", "verify", "--cache_dir", str(tmp_path)]
    assert main(command) == 2
    told = capsys.readouterr().out
    assert "1 damaged row struck out, 1 entry found again" in told and "1 damaged entry struck out" in told
    assert main(command) == 0 and "5 entries" in capsys.readouterr().out
    assert TensorCache(tmp_path / "latents").get(KEYS[-1]) is None
