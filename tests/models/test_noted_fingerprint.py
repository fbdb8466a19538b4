"""Hashes of large files that are not computed twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from library.models import noted_fingerprint as module
from library.models.noted_fingerprint import noted_fingerprint
from library.models.weights import Weights, fingerprint, read_header, unchanged


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really hashed; everything counts as large and as untouched for long."""
    calls: list[str] = []

    def count(weights: Weights) -> str:
        calls.append(fingerprint(weights))
        return calls[-1]

    monkeypatch.setattr(module, "fingerprint", count)
    monkeypatch.setattr(module, "LARGE", 0)
    monkeypatch.setattr(module, "SETTLED", -1)
    return calls


def write(file: Path, value: float, **more: torch.Tensor) -> Weights:
    save_file({"a": torch.full((4, 4), value), **more}, file)
    return unchanged(read_header(file).tensors.values())


def test_a_note_saves_the_second_hash(tmp_path: Path, hashed: list[str]) -> None:
    weights = write(tmp_path / "vae.safetensors", 1.0)
    first, second = (noted_fingerprint(weights, tmp_path / "notes") for _ in range(2))
    assert first == second == fingerprint(weights)
    assert len(hashed) == 1


def test_another_content_of_the_same_size_and_time_is_told_apart(tmp_path: Path, hashed: list[str]) -> None:
    file = tmp_path / "vae.safetensors"
    first = noted_fingerprint(write(file, 1.0), tmp_path / "notes")
    then = file.stat()
    weights = write(file, 2.0)
    os.utime(file, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert file.stat().st_mtime_ns == then.st_mtime_ns and file.stat().st_size == then.st_size
    assert noted_fingerprint(weights, tmp_path / "notes") == fingerprint(weights) != first


def test_two_parts_of_one_file_have_notes_of_their_own(tmp_path: Path, hashed: list[str]) -> None:
    both = write(tmp_path / "model.safetensors", 1.0, b=torch.zeros(3))
    parts = [{stored: places} for stored, places in both.items()]
    assert len({noted_fingerprint(part, tmp_path / "notes") for part in parts for _ in range(2)}) == 2
    assert len(hashed) == 2


def test_a_damaged_note_and_a_small_part_are_hashed(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write(tmp_path / "vae.safetensors", 1.0)
    noted_fingerprint(weights, tmp_path / "notes")
    (note,) = (tmp_path / "notes").iterdir()
    note.write_bytes(b"\xff half a no")
    assert noted_fingerprint(weights, tmp_path / "notes") == fingerprint(weights)
    monkeypatch.setattr(module, "LARGE", 1 << 20)
    noted_fingerprint(weights, tmp_path / "notes")
    assert len(hashed) == 3


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path: Path, hashed: list[str]) -> None:
    weights = write(tmp_path / "vae.safetensors", 1.0)
    (tmp_path / "notes").write_text("a file, not a folder", encoding="utf-8")
    assert noted_fingerprint(weights, tmp_path / "notes") == fingerprint(weights)


def test_nothing_is_noted_of_a_file_that_was_just_written(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next change might leave no trace. A time of content set back does not hide that it is new."""
    monkeypatch.setattr(module, "SETTLED", 3)
    weights = write(tmp_path / "vae.safetensors", 1.0)
    os.utime(tmp_path / "vae.safetensors", (0, 0))
    for _ in range(2):
        noted_fingerprint(weights, tmp_path / "notes")
    assert len(hashed) == 2
    changed = (tmp_path / "vae.safetensors").stat().st_ctime
    monkeypatch.setattr(module.time, "time", lambda: changed + 4)
    for _ in range(2):
        noted_fingerprint(weights, tmp_path / "notes")
    assert len(hashed) == 3


def test_nothing_is_noted_of_a_file_that_changes_meanwhile(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = write(tmp_path / "vae.safetensors", 1.0)
    counted = module.fingerprint

    def hash_and_touch(weights: Weights) -> str:
        found = counted(weights)
        os.utime(tmp_path / "vae.safetensors", (0, len(hashed)))
        return found

    monkeypatch.setattr(module, "fingerprint", hash_and_touch)
    noted_fingerprint(weights, tmp_path / "notes")
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize(("name", "value"), [("TELLS_CHANGES", False), ("VERSION", 2)])
def test_notes_that_say_nothing_are_not_read(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    weights = write(tmp_path / "vae.safetensors", 1.0)
    noted_fingerprint(weights, tmp_path / "notes")
    monkeypatch.setattr(module, name, value)
    noted_fingerprint(weights, tmp_path / "notes")
    assert len(hashed) == 2
