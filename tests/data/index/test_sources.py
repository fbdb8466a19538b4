from __future__ import annotations

import json
import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from library.config.dataset import Dataset
from library.data.captions.written import find_captions
from library.data.checks.caption_files import _nearest, about_captions_alone
from library.data.checks.findings import Finding
from library.data.checks.remarks import Remarks
from library.data.index.folder import Folder, Listing
from library.data.index.look import Looker
from library.data.index.manifest import open_manifest
from library.data.index.siblings import Siblings
from library.data.index.sources import Scanner, Survey
from library.data.pictures import endings

Make = Callable[..., Path]


def scan(datasets: list[Dataset]) -> Survey:
    remarks = Remarks()
    with open_manifest(None) as manifest:
        found = Scanner(datasets, Looker(manifest), remarks).scan()
    return Survey(found.pictures, remarks.all())


def said(findings: list[Finding], word: str) -> list[Finding]:
    return [finding for finding in findings if word in f"{finding.message} {finding.advice}"]


def test_a_folder_in_order_with_sizes_and_captions(tmp_path: Path, picture: Make, subset, dataset) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp", "ü 🥊 long name.bmp", "d.gif", "e.avif"):
        picture(tmp_path / name, (40, 60), caption=f"caption of {name}")
    picture(tmp_path / "sub" / "z.png")
    (tmp_path / "._b.png").write_bytes(b"mac")
    (tmp_path / "notes.md").write_text("x", encoding="utf-8")
    survey = scan([dataset(subset(tmp_path, num_repeats=3))])
    assert [p.path.name for p in survey.pictures] == [
        "a.jpeg",
        "b.PNG",
        "c.webp",
        "d.gif",
        "e.avif",
        "ü 🥊 long name.bmp",
    ]
    assert all(
        p.size == (40, 60) and p.repeats == 3 and p.caption == f"caption of {p.path.name}" for p in survey.pictures
    )
    assert said(survey.findings, "subfolders (sub)") and said(survey.findings, ".txt files")


def test_which_caption_file_is_taken(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="text")
    (tmp_path / "a.caption").write_text("caption", encoding="utf-8")
    picture(tmp_path / "b.png", caption="text")
    for extension, expected in [(None, ["caption", "text"]), (".txt", ["text", "text"]), ("TXT", ["text", "text"])]:
        survey = scan([dataset(subset(tmp_path, caption_extension=extension))])
        assert [p.caption for p in survey.pictures] == expected


def test_captions_are_found_whatever_the_spelling(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "A.png", seed=1)
    picture(tmp_path / "a.png", seed=2)
    (tmp_path / "A.txt").write_text("large", encoding="utf-8")
    if (tmp_path / "a.txt").exists():
        pytest.skip("this file system does not know cases")
    (tmp_path / "a.txt").write_text("small", encoding="utf-8")
    picture(tmp_path / "B.png")
    (tmp_path / "b.TXT").write_text("other case", encoding="utf-8")
    picture(tmp_path / (unicodedata.normalize("NFC", "é") + ".png"))
    (tmp_path / (unicodedata.normalize("NFD", "é") + ".txt")).write_text("accent", encoding="utf-8")
    picture(tmp_path / "f_10_10_5_5.png")
    (tmp_path / "f.txt").write_text("face", encoding="utf-8")
    captions = {p.path.stem: p.caption for p in scan([dataset(subset(tmp_path))]).pictures}
    assert captions == {"A": "large", "a": "small", "B": "other case", "é": "accent", "f_10_10_5_5": "face"}


def test_missing_and_empty_captions(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", caption=" \n ")
    without = scan([dataset(subset(tmp_path))])
    assert [p.caption for p in without.pictures] == ["", ""]
    assert [f.severity for f in said(without.findings, "empty")] == ["warning", "warning"]
    tokens = scan([dataset(subset(tmp_path, class_tokens="alex man"))])
    assert [p.caption for p in tokens.pictures] == ["alex man", "alex man"]
    assert len(said(tokens.findings, "'alex man'")) == 2


def test_a_wrong_caption_extension_is_told(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="x")
    survey = scan([dataset(subset(tmp_path, caption_extension=".caption"))])
    assert [f.severity for f in said(survey.findings, "some in .txt")] == ["warning"]


def test_same_names_and_unread_kinds_are_told(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.jpg", seed=1)
    picture(tmp_path / "a.png", seed=2, caption="both")
    (tmp_path / "b.heic").write_bytes(b"x")
    survey = scan([dataset(subset(tmp_path))])
    assert [p.caption for p in survey.pictures] == ["both", "both"]
    assert said(survey.findings, "same name as a.jpg") and said(survey.findings, ".heic")


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n123"])
def test_unreadable_headers_are_left_out(tmp_path: Path, picture: Make, subset, dataset, content: bytes) -> None:
    picture(tmp_path / "a.png", caption="x")
    (tmp_path / "bad.png").write_bytes(content)
    survey = scan([dataset(subset(tmp_path))])
    assert [p.path.name for p in survey.pictures] == ["a.png"]
    assert [(f.severity, Path(f.path).name) for f in said(survey.findings, "left out")] == [("warning", "bad.png")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_what_is_no_file_is_told_where_it_has_a_name_of_one(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / "c.JPG").mkdir()
    os.mkfifo(tmp_path / "d.webp")
    (tmp_path / "readme").symlink_to(tmp_path / "nowhere")
    survey = scan([dataset(subset(tmp_path))])
    assert [p.path.name for p in survey.pictures] == ["a.png"]
    assert {Path(f.path).name: f.message for f in survey.findings if f.kind == "unreadable"} == {
        "a.txt": "is a link to nothing.",
        "b.png": "is a link to nothing.",
        "circle.png": "is a link to nothing.",
        "c.JPG": "is a folder.",
        "d.webp": "is no file, but a pipe, socket or device.",
    }
    picture(tmp_path / "c.JPG" / "inside.png", seed=1)
    below = scan([dataset(subset(tmp_path, recursive=True))])
    assert len(below.pictures) == 2 and not said(below.findings, "is a folder")


def test_folders_that_are_missing_empty_or_too_high_up(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "alexander" / "10_alex" / "a.png")
    for folder, hint in [("alexandr", "Did you mean 'alexander'"), ("alexander", "its subfolders (10_alex)")]:
        survey = scan([dataset(subset(tmp_path / folder))])
        assert not len(survey.pictures)
        assert said(survey.findings, hint)[0].severity == "error"


def test_subfolders_that_are_subsets_themselves_are_not_told(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="x")
    picture(tmp_path / "10_alex" / "b.png", caption="x")
    survey = scan([dataset(subset(tmp_path), subset(tmp_path / "10_alex"))])
    assert [(p.path.name, p.subset) for p in survey.pictures] == [("a.png", 0), ("b.png", 1)]
    assert not said(survey.findings, "subfolders")


def test_a_subset_given_twice_counts_once(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="x")
    twice = scan([dataset(subset(tmp_path), subset(tmp_path))])
    assert len(twice.pictures) == 1 and said(twice.findings, "twice")
    other_dataset = scan([dataset(subset(tmp_path)), dataset(subset(tmp_path))])
    assert [p.dataset for p in other_dataset.pictures] == [0, 1]


def test_no_repeats_no_subset(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="x")
    survey = scan([dataset(subset(tmp_path, num_repeats=0))])
    assert not len(survey.pictures) and said(survey.findings, "num_repeats is 0")


def test_metadata_keys_may_start_in_the_working_folder(
    tmp_path: Path, picture: Make, subset, dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pictures/a.png", "other/b.png", "masks/a.png"):
        picture(tmp_path / name)
    entries = {"a.png": {"caption": "one"}, "../other/b.png": {"caption": "two"}}
    (tmp_path / "m.json").write_text(json.dumps(entries), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "pictures")
    survey = scan([dataset(subset(tmp_path / "pictures", metadata_file=tmp_path / "m.json"))])
    assert {p.path.resolve(): p.caption for p in survey.pictures} == {
        tmp_path / "pictures" / "a.png": "one",
        tmp_path / "other" / "b.png": "two",
    }
    (tmp_path / "m.json").write_text(json.dumps({"a.png": {"caption": "one"}}), encoding="utf-8")
    masked = subset(
        tmp_path / "pictures", metadata_file=tmp_path / "m.json", conditioning_data_dir=str(tmp_path / "masks")
    )
    (found,) = scan([dataset(masked)]).pictures
    assert found.mask_path == tmp_path / "masks" / "a.png"


def test_metadata_names_pictures_in_several_ways(tmp_path: Path, picture: Make, subset, dataset) -> None:
    root = tmp_path / "root"
    for name in ("a.png", "b.c.png", "sub/d.jpg", "e.webp"):
        picture(root / name)
    entries = {
        str(root / "a.png"): {"caption": "A", "tags": "t"},
        "b.c": {"caption": "B"},
        "sub/d": {"tags": "D"},
        "e.webp": {},
        "gone": {"caption": "?"},
    }
    (tmp_path / "m.json").write_text(json.dumps(entries), encoding="utf-8")
    survey = scan([dataset(subset(root, metadata_file=tmp_path / "m.json"))])
    assert {p.path.name: p.caption for p in survey.pictures} == {
        "a.png": "A,t",
        "b.c.png": "B",
        "d.jpg": "D",
        "e.webp": "",
    }
    assert [f.path for f in said(survey.findings, "not found")] == ["gone"]
    assert not said(survey.findings, "twice")


def test_metadata_that_names_a_picture_twice_is_told(tmp_path: Path, picture: Make, subset, dataset) -> None:
    path = picture(tmp_path / "a.png")
    (tmp_path / "m.json").write_text('{"a": {"caption": "one"}, "a.png": {"caption": "two"}}', encoding="utf-8")
    survey = scan([dataset(subset(tmp_path, metadata_file=tmp_path / "m.json"))])
    assert [p.caption for p in survey.pictures] == ["two"]
    assert [f.path for f in said(survey.findings, "named twice")] == [str(path)]


def test_masks_are_found_by_name_and_missed_by_name(tmp_path: Path, picture: Make, subset, dataset) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "pictures" / name, caption="x")
    picture(tmp_path / "masks" / "a.jpg")
    survey = scan([dataset(subset(tmp_path / "pictures", conditioning_data_dir=str(tmp_path / "masks")))])
    assert [p.mask_path and p.mask_path.name for p in survey.pictures] == ["a.jpg", None]
    assert [(f.severity, Path(f.path).name) for f in said(survey.findings, "no mask")] == [("error", "b.png")]


def test_pictures_that_are_not_above_skip_image_resolution_are_left_out(
    tmp_path: Path, picture: Make, subset, dataset
) -> None:
    """By their area, as in sd-scripts: of the two of 96 x 64 pixels neither is above 64 x 96."""
    for name, size in {"a.png": (64, 64), "b.png": (96, 64), "c.png": (64, 96), "d.png": (97, 64)}.items():
        picture(tmp_path / name, size, caption="x")
    folder = subset(tmp_path)
    survey = scan([dataset(folder), dataset(folder, skip_image_resolution=[64, 96])])
    assert [(p.dataset, p.path.name) for p in survey.pictures] == [*((0, f"{n}.png") for n in "abcd"), (1, "d.png")]
    (told,) = said(survey.findings, "skip_image_resolution")
    assert told.severity == "notice" and told.message.startswith("3 of 4 pictures")


def alone(findings: list[Finding]) -> dict[str, str]:
    return {Path(each.path).name: each.message for each in findings if each.kind == "caption alone"}


def test_captions_without_a_picture_are_told_with_a_near_name(tmp_path: Path, picture: Make, subset, dataset) -> None:
    for number in range(4):
        picture(tmp_path / f"p{number:02}.jpg", seed=number, caption=None if number in (2, 3) else "x")
    picture(tmp_path / "anna.png", seed=9)
    for name in ("p02 .txt", "gone.txt", "p07.txt", "ana.txt", "README.txt", "b.txt", "other.caption", "notes.md"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "bad.png").write_bytes(b"")
    (tmp_path / "bad.txt").write_text("x", encoding="utf-8")
    findings = scan([dataset(subset(tmp_path, caption_extension="txt"))]).findings
    assert alone(findings) == {
        "p02 .txt": "is the caption of no picture. p02.jpg has no caption: is it meant?",
        "ana.txt": "is the caption of no picture. anna.png has no caption: is it meant?",
        "gone.txt": "is the caption of no picture.",
        "p07.txt": "is the caption of no picture.",
        "README.txt": "is the caption of no picture.",
    }
    assert "other.caption" in alone(scan([dataset(subset(tmp_path))]).findings)


def test_captions_of_faces_other_cases_and_subfolders_are_not_alone(
    tmp_path: Path, picture: Make, subset, dataset
) -> None:
    picture(tmp_path / "anna_10_10_5_5.png")
    (tmp_path / "anna.txt").write_text("x", encoding="utf-8")
    picture(tmp_path / "B.png")
    (tmp_path / "b.TXT").write_text("x", encoding="utf-8")
    picture(tmp_path / "sub" / "c.png", caption="x")
    (tmp_path / "c.txt").write_text("x", encoding="utf-8")
    assert set(alone(scan([dataset(subset(tmp_path, recursive=True))]).findings)) == {"c.txt"}


def test_a_name_of_five_words_tells_of_no_face(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "anna.png", seed=1, caption="anna, red hat")
    for seed, name in enumerate(("anna_at_the_beach_2.png", "my_best_pictures_of/anna_2.png", "anna_1_2_3_x.png"), 2):
        picture(tmp_path / name, seed=seed)
    (tmp_path / "my.txt").write_text("of nothing", encoding="utf-8")
    picture(tmp_path / "anna_10_10_5_5.png", seed=9)
    survey = scan([dataset(subset(tmp_path, recursive=True))])
    captions = {each.path.name: each.caption for each in survey.pictures}
    assert captions == {
        "anna.png": "anna, red hat", "anna_10_10_5_5.png": "anna, red hat",
        "anna_at_the_beach_2.png": "", "anna_2.png": "", "anna_1_2_3_x.png": "",
    }  # fmt: skip
    assert len([each for each in survey.findings if each.kind == "no caption"]) == 3
    edited = find_captions(tmp_path, True, None)
    assert [each.label for each in edited.missing] == [
        "anna_1_2_3_x.txt", "anna_at_the_beach_2.txt", "my_best_pictures_of/anna_2.txt",
    ]  # fmt: skip


def test_pictures_of_other_kinds_are_told_with_what_reads_them(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png", caption="x")
    converted = ("b.heic", "c.JPE", "d.jfif", "e.j2k")
    for name in (*converted, "f.arw", "g.cr3", "h.tga", "i.xcf", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    told = [each for each in scan([dataset(subset(tmp_path))]).findings if each.kind == "not read"]
    assert [Path(each.path).name for each in told] == [*converted, "f.arw", "g.cr3", "h.tga", "i.xcf"]
    assert [Path(each.path).name for each in told if "dojo dataset prepare" in each.advice] == list(converted)
    assert all("Export" in each.advice for each in told[len(converted) :])


@pytest.mark.parametrize("installed", [True, False])
def test_a_kind_that_needs_a_plugin_says_so_where_it_is_missing(
    tmp_path: Path, picture: Make, subset, dataset, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(endings, "find_spec", lambda module: object() if installed else None)
    (tmp_path / "a.heic").write_bytes(b"x")
    (tmp_path / "b.jp2").write_bytes(b"x")
    heic, jp2 = (each for each in scan([dataset(subset(tmp_path))]).findings if each.kind == "not read")
    assert ("pip install pillow-heif" in heic.advice) != installed and "pip" not in jp2.advice


def test_captions_alone_among_very_many_files_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(name: str, others: Sequence[str]) -> str:
        compared.append(len(others))
        return _nearest(name, others)

    monkeypatch.setattr("library.data.checks.caption_files._nearest", counted)
    names = [f"{number:06}.png" for number in range(100_000)]
    names += [f"{number:06}.txt" for number in range(2, 100_002)]
    files = Listing(names, np.zeros((len(names), 4), np.int64))
    siblings, pictures = Siblings(names, (".txt",)), names[:100_000]
    found = [siblings.caption_of(name) for name in pictures]
    started = time.process_time()
    told = list(about_captions_alone(Folder(Path("all")), files, siblings, pictures, found))
    assert [Path(each.path).name for each in told] == ["100000.txt", "100001.txt"]
    assert compared == [0, 0]
    assert time.process_time() - started < 20, "each with each would take minutes"


@pytest.mark.parametrize("size", [None, (16, 64), (400, 32)])
def test_of_pictures_that_are_left_out_nothing_else_is_told(
    tmp_path: Path, picture: Make, subset, dataset, size: tuple[int, int] | None
) -> None:
    picture(tmp_path / "a.png", caption="x")
    if size is None:
        (tmp_path / "a.jpg").write_bytes(b"")
        (tmp_path / "b.png").write_bytes(b"")
    else:
        picture(tmp_path / "a.jpg", size)
        picture(tmp_path / "b.png", size)
    (tmp_path / "c.txt").write_bytes(b"")
    findings = scan([dataset(subset(tmp_path, class_tokens="anna"))]).findings
    kinds = sorted((each.kind, Path(each.path).name) for each in findings if each.kind not in ("caption files",))
    reason = "unreadable" if size is None else "unusable size"
    assert kinds == [("caption alone", "c.txt"), (reason, "a.jpg"), (reason, "b.png")]


def test_metadata_without_captions_is_told_of_usable_pictures(tmp_path: Path, picture: Make, subset, dataset) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "m.json").write_text('{"a.png": {}, "b.png": {}}', encoding="utf-8")
    findings = scan([dataset(subset(tmp_path, metadata_file=tmp_path / "m.json"))]).findings
    assert [(each.kind, Path(each.path).name) for each in findings] == [
        ("unreadable", "b.png"),
        ("no caption", "a.png"),
    ]
