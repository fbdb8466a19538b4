from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from library.config.findings import Findings
from library.config.picture_folders import find_picture_folders
from library.core.errors import UserError
from library.generation.folder import GeneratedFolder, numbers_in, open_folder
from library.generation.plan import Canvas, plan
from library.generation.record import Record, entry_of, read_record, write_record


@pytest.fixture
def record(sheet) -> Record:
    anna = sheet()
    entries = [entry_of(picture, picture.request(anna, Canvas(64, 8))) for picture in plan(anna, 4, {2: 1})]
    return Record(
        "anna",
        "annx",
        anna.folder_name,
        anna.table,
        {"options": {}, "identity": {}},
        {each.number: each for each in entries},
    )


def test_a_record_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert open_folder(tmp_path, "anna", record.folder) == record


def test_pictures_of_others_are_left_alone(record: Record, tmp_path: Path) -> None:
    assert open_folder(tmp_path / "new", "anna", "x") is None
    write_record(tmp_path, record)
    with pytest.raises(UserError, match=r"holds pictures of 'anna' in '10_annx woman', and these would be of 'bob'"):
        open_folder(tmp_path, "bob", "10_bob")
    (tmp_path / "generation.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"generation\.json cannot be read \(KeyError"):
        open_folder(tmp_path, "anna", record.folder)
    write_record(tmp_path, dataclasses.replace(record, model={}))
    with pytest.raises(UserError, match=r"generation\.json cannot be read .*the model is not told"):
        open_folder(tmp_path, "anna", record.folder)
    strange = tmp_path / "photos" / "mine"
    strange.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(strange / "me.jpg")
    with pytest.raises(UserError, match=r"has not made \(mine/me\.jpg"):
        open_folder(strange.parent, "anna", record.folder)


def test_a_weeded_picture_is_where_no_trainer_looks(record: Record, tmp_path: Path) -> None:
    folder = GeneratedFolder(tmp_path, tmp_path / record.folder)
    folder.pictures.mkdir()
    first, second, third, _ = record.entries.values()
    for entry in (first, second):
        Image.new("RGB", (8, 8)).save(folder.picture(entry))
        folder.picture(entry).with_suffix(".txt").write_text("annx", encoding="utf-8")
    folder.reject(second)
    assert [folder.state(entry) for entry in (first, second, third)] == ["made", "rejected", "missing"]
    assert folder.rejected(second).with_suffix(".txt").read_text(encoding="utf-8") == "annx"
    Image.new("RGB", (8, 8)).save(folder.review / "sheet.png")
    findings = Findings()
    (found,) = find_picture_folders(str(tmp_path), "train_data_dir", findings)
    assert (found.path, found.repeats, found.class_tokens) == (folder.pictures, 10, "annx woman")
    assert sorted(path.name for path in found.path.iterdir()) == [f"{first.stem}.png", f"{first.stem}.txt"]
    assert not findings.notices and not findings.mistakes


def test_weeding_that_is_cut_short_leaves_no_picture_without_its_caption(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = GeneratedFolder(tmp_path, tmp_path / record.folder)
    folder.pictures.mkdir()
    entry = record.entries[1]
    Image.new("RGB", (8, 8)).save(folder.picture(entry))
    folder.picture(entry).with_suffix(".txt").write_text("annx", encoding="utf-8")
    moved: list[Path] = []

    def killed_at_the_second(source: Path, target: Path, replace=Path.replace) -> Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(source)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        folder.reject(entry)
    assert folder.state(entry) == "rejected" and not folder.picture(entry).exists()


@pytest.mark.parametrize(
    ("words", "numbers"), [(["3", "7-9"], [3, 7, 8, 9]), (["9,2", "2-2"], [2, 9]), ([], []), (["1-3,5"], [1, 2, 3, 5])]
)
def test_numbers_and_ranges(words: list[str], numbers: list[int]) -> None:
    assert numbers_in(words, "--weed") == numbers


@pytest.mark.parametrize("word", ["0", "x", "3-", "-3", "9-7", "1.5", "²", "1-99999999"])
def test_what_is_no_number_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"--weed: '.*' is no number of a picture; write them as 3 7-9"):
        numbers_in([word], "--weed")
