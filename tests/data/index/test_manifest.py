"""What was seen is noted: a second look costs nothing, and nothing stale is ever believed."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from library.config.dataset import Dataset
from library.data.checks.preflight import preflight
from library.data.index import captions, look
from library.data.index import manifest as manifest_module
from library.data.index.folder import Folder
from library.data.index.manifest import open_manifest
from library.data.index.record import RECORD
from library.data.index.sources import Survey

Make = Callable[..., Path]

OLD = 1_700_000_000_000_000_000
"""A time of change in ns, long past."""


class Work:
    """Counts what is read and decoded."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.decoded = 0

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    counted, read, inspect = Work(), Folder.read, look.inspect

    def counting_read(self: Folder, name: str) -> bytes:
        counted.read.append(name)
        return read(self, name)

    def counting_inspect(*arguments: object) -> object:
        counted.decoded += 1
        return inspect(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Folder, "read", counting_read)
    monkeypatch.setattr(look, "inspect", counting_inspect)
    return counted


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder counts as large: stats are relied on. No change is so recent that its time is not."""
    for module in (look, captions):
        monkeypatch.setattr(module, "is_small", lambda listing: False)
    monkeypatch.setattr("library.data.index.manifest.RECENT", 0)


@pytest.fixture
def pictures(folder: Make) -> Path:
    path = folder(6)
    for file in path.iterdir():
        os.utime(file, ns=(OLD, OLD))
    return path


@pytest.fixture
def survey(dataset, subset, pictures: Path, tmp_path: Path) -> Callable[..., Survey]:
    def make(**settings: object) -> Survey:
        return preflight([dataset(subset(pictures, **settings))], manifest=tmp_path / "cache" / "manifest.sqlite")

    return make


def facts(found: Survey) -> list[tuple[str, str, str, tuple[int, int]]]:
    return [(each.path.name, each.content, each.caption, each.size) for each in found.pictures]


def test_small_folders_are_read_anew_and_decoded_once(survey, work: Work) -> None:
    first = survey()
    assert work.decoded == 6
    work.clear()
    second = survey()
    assert work.decoded == 0 and len(work.read) == 12
    assert facts(first) == facts(second) and first.findings == second.findings


def test_of_large_folders_nothing_is_read_again(survey, work: Work, large: None) -> None:
    first = survey()
    work.clear()
    second = survey()
    assert work.decoded == 0 and not work.read
    assert facts(first) == facts(second) and first.findings == second.findings


@pytest.mark.parametrize("size", ["small", "large"])
def test_a_change_that_keeps_size_and_time_is_seen(
    survey, work: Work, pictures: Path, request: pytest.FixtureRequest, size: str
) -> None:
    """The time of change of the file's entry, which no program can set, tells; in a small folder the bytes do."""
    if size == "large":
        request.getfixturevalue("large")
    raw = np.random.default_rng(9).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(raw).save(pictures / "02.bmp")
    os.utime(pictures / "02.bmp", ns=(OLD, OLD))
    before = {name: content for name, content, *_ in facts(survey())}
    work.clear()
    changed = Image.fromarray(255 - raw)
    changed.save(pictures / "02.bmp")
    os.utime(pictures / "02.bmp", ns=(OLD, OLD))
    after = {name: content for name, content, *_ in facts(survey())}
    assert {name for name in after if after[name] != before[name]} == {"02.bmp"} and work.decoded == 1


def test_changed_added_and_removed_files_of_a_large_folder(
    survey, work: Work, large: None, pictures: Path, picture: Make
) -> None:
    survey()
    work.clear()
    (pictures / "00.png").unlink()
    (pictures / "01.txt").write_text("alex, changed", encoding="utf-8")
    (pictures / "02.txt").unlink()
    picture(pictures / "03a.png", seed=99, caption="alex, new")
    found = {name: caption for name, _, caption, _ in facts(survey())}
    assert set(found) == {"01.png", "02.png", "03.png", "03a.png", "04.png", "05.png"}
    assert found["01.png"] == "alex, changed" and found["02.png"] == "" and found["03a.png"] == "alex, new"
    assert sorted(work.read) == ["01.txt", "03a.png", "03a.txt"] and work.decoded == 1


def test_a_file_of_this_very_moment_is_read_once_more(
    survey, work: Work, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some disks give the same time to a change that follows at once."""
    for module in (look, captions):
        monkeypatch.setattr(module, "is_small", lambda listing: False)
    os.utime(pictures / "00.png", ns=(time.time_ns(), time.time_ns()))
    monkeypatch.setattr("library.data.index.manifest.RECENT", 10**12)
    survey()
    work.clear()
    survey()
    assert "00.png" in work.read and work.decoded == 0


def test_what_is_wrong_with_a_picture_is_remembered_until_it_changes(
    survey, work: Work, large: None, pictures: Path, picture: Make
) -> None:
    good = (pictures / "03.png").read_bytes()
    (pictures / "03.png").write_bytes(good[:200])
    first = survey()
    assert [finding.kind for finding in first.findings if "03.png" in finding.path] == ["unreadable"]
    work.clear()
    assert survey().findings == first.findings and work.decoded == 0
    (pictures / "03.png").write_bytes(good)
    assert "03.png" in [name for name, *_ in facts(survey())]
    assert work.read == ["03.png", "03.txt"], "the caption of a picture that is left out is not needed"


def test_another_pillow_tries_again_what_this_one_could_not_read(
    survey, work: Work, large: None, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AVIF, say, came with one of its versions."""
    (pictures / "03.png").write_bytes((pictures / "03.png").read_bytes()[:200])
    first = survey()
    work.clear()
    monkeypatch.setattr("PIL.__version__", "99.0")
    assert survey().findings == first.findings and work.read == ["03.png"]


@pytest.mark.parametrize("damage", ["text", "cut", "other layout"])
def test_a_damaged_manifest_is_made_anew(survey, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    first = survey()
    file = tmp_path / "cache" / "manifest.sqlite"
    if damage == "text":
        file.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        with sqlite3.connect(file) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()
    with caplog.at_level(logging.WARNING, "dojo"):
        assert facts(survey()) == facts(first)
    assert facts(survey()) == facts(first)
    assert damage != "text" or "made anew" in caplog.text


def test_a_manifest_that_is_damaged_inside_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It opens well, and what is in its later pages cannot be read."""
    file, records = tmp_path / "manifest.sqlite", np.zeros(1000, RECORD)
    rows = [(f"{number:04d}", records[number : number + 1], None) for number in range(1000)]
    with open_manifest(file) as manifest:
        manifest.note_pictures(tmp_path, rows)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40960] = b"\xff" * 40960
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING, "dojo"), open_manifest(file) as manifest:
        assert len(manifest.pictures(tmp_path).names) < 1000
    assert "cannot be read" in caplog.text and not file.exists()


def test_a_record_of_another_form_is_none(survey, tmp_path: Path) -> None:
    first = survey()
    with sqlite3.connect(tmp_path / "cache" / "manifest.sqlite") as database:
        database.execute("UPDATE pictures SET record = x'00' WHERE name = ?", (b"02.png",))
    database.close()
    assert facts(survey()) == facts(first)


def test_who_comes_second_to_an_empty_manifest_leaves_what_the_first_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "manifest.sqlite"
    with open_manifest(file) as manifest:
        manifest.note_pictures(tmp_path, [("a.png", np.zeros(1, RECORD), None)])
    answers = iter([0])  # what it had been a moment ago
    now = manifest_module._layout
    monkeypatch.setattr(
        manifest_module, "_layout", lambda connection: 0 if next(answers, None) is not None else now(connection)
    )
    with open_manifest(file) as manifest:
        assert manifest.pictures(tmp_path).names == ["a.png"]


def test_without_a_place_for_the_manifest_everything_works(
    dataset, subset, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "dojo"):
        found = preflight([dataset(subset(pictures))], manifest=tmp_path / "file" / "manifest.sqlite")
    assert len(found.pictures) == 6 and "cannot be used" in caplog.text


def test_several_processes_look_at_once(dataset, subset, pictures: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "cache" / "manifest.sqlite"
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(_contents, [(dataset(subset(pictures)), manifest)] * 3)
    assert found[0] == found[1] == found[2] and len(found[0]) == 6
    with sqlite3.connect(manifest) as database:
        assert database.execute("SELECT count(*) FROM pictures").fetchone() == (6,)
    database.close()


def _contents(dataset: Dataset, manifest: Path) -> list[str]:
    return [picture.content for picture in preflight([dataset], manifest=manifest).pictures]
