"""`dojo dataset caption` on folders as people have them."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from library.cli.dataset_tools.captions import work
from library.cli.main import main
from library.data.captions.files import caption_in

ROOT = Path(__file__).resolve().parents[3]
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP6DwABBQECz6AuzQAAAABJRU5ErkJggg=="
)


def caption(*words: object) -> int:
    return main(["dataset", "caption", *map(str, words)])


def make(folder: Path, captions: dict[str, bytes | str | None]) -> Path:
    """A folder of pictures, each with its caption or none."""
    for name, content in captions.items():
        picture = folder / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(PICTURE)
        if content is not None:
            picture.with_suffix(".txt").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every visible file's bytes and rights."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".dojo" not in path.parts]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mode) for path in files}


UGLY: dict[str, bytes | str | None] = {
    "plain": "smiling, long_hair\n",
    "bom": b"\xef\xbb\xbfsmiling, hat",
    "utf16": "smiling, été".encode("utf-16"),
    "cp1252": "smiling, été".encode("cp1252"),
    "crlf": b"smiling\r\n\r\nlong_hair, smiling\r\n",
    "empty": b"",
    "blank": b"\r\n",
    "many": ", ".join(f"tag {number}" for number in range(5000)) + ", smiling",
    "emoji 😀": "smiling 😀, smiling",
    "none": None,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "10_anna woman", UGLY)


def test_a_preview_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert caption(folder, "--remove_tags", "smiling", "--create", "--template", "{folder}, {caption}") == 0
    assert contents(folder) == before and not (folder / ".dojo").exists()
    told = capsys.readouterr().out
    assert "plain.txt\n  - smiling, long_hair\n  + anna woman, long_hair\n" in told
    assert "9 of 9 captions would change, 1 of them new." in told and "--apply" in told


def test_apply_then_undo_gives_every_byte_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plain.txt").chmod(0o640)
    before = contents(folder)
    edits = ["--trigger_word", "anna", "--remove_tags", "smiling", "--underscores_to_spaces", "--trigger_first", "--create", "--to_utf8"]  # fmt: skip
    assert caption(folder, *edits, "--apply") == 0
    assert (folder / "plain.txt").read_bytes() == b"anna, long hair\n"
    assert (folder / "plain.txt").stat().st_mode & 0o777 == 0o640
    assert (folder / "bom.txt").read_bytes() == b"anna, hat"
    assert (folder / "utf16.txt").read_text("utf-8") == "anna, été" == (folder / "cp1252.txt").read_text("utf-8")
    assert (
        folder / "crlf.txt"
    ).read_bytes() == b"\r\n\r\nanna, long hair\r\n"  # a line that loses all is no alternative
    assert (folder / "empty.txt").read_bytes() == b"anna"
    assert (folder / "none.txt").read_bytes() == b"anna\n"
    assert (folder / "emoji 😀.txt").read_text("utf-8") == "anna, smiling 😀"
    capsys.readouterr()
    assert caption(folder, *edits, "--apply") == 0
    assert "0 of 10 captions change" in capsys.readouterr().out
    assert caption(folder, "--undo") == 0
    assert "would undo" in capsys.readouterr().out and contents(folder) != before
    assert caption(folder, "--undo", "--apply") == 0
    assert contents(folder) == before
    assert caption(folder, "--undo", "--apply") == 2


WORDS = st.lists(st.sampled_from(["a", "b_c", "B c", "^_^", "", "été", "dojo background", "a, a"]), max_size=6)
ENDS = st.sampled_from(["", "\n", "\r\n", "\n\n"])
CODES = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])
STEPS = st.lists(
    st.sampled_from(
        [["--dedupe"], ["--add_tags", "z, b c"], ["--remove_tags", "*c"], ["--sort_tags", "frequency"], ["--to_utf8"],
         ["--prefix", "by"], ["--max_tags", "2"], ["--create", "--template", "{name}, {caption}"]]
    ), min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(captions=st.lists(st.tuples(WORDS, ENDS, CODES), min_size=1, max_size=4), steps=STEPS)
def test_any_steps_can_be_undone(tmp_path: Path, captions, steps) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    written = {f"p{n}": (", ".join(words) + end).encode(code) for n, (words, end, code) in enumerate(captions)}
    before = contents(make(tmp_path, {**written, "none": None}))
    applied = 0
    for step in steps:
        status = caption(tmp_path, *step)
        at = contents(tmp_path)
        assert caption(tmp_path, *step, "--apply") == status
        assert status == 0 or (status == 2 and contents(tmp_path) == at), "the latter where all encodings are guesses"
        applied += contents(tmp_path) != at
    if applied:
        assert caption(tmp_path, "--undo", "--steps", applied, "--apply") == 0
    assert contents(tmp_path) == before


def test_several_steps_back_and_the_history(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caption(folder, "--add_tags", "one", "--apply")
    middle = contents(folder)
    caption(folder, "--add_tags", "two", "--apply")
    caption(folder, "--remove_tags", "one", "--apply")
    capsys.readouterr()
    assert caption(folder, "--undo", "--steps", 2, "--apply") == 0
    assert contents(folder) == middle
    capsys.readouterr()
    assert caption(folder, "--history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("3 steps") and [("undone" in line) for line in lines[1:]] == [True, True, False]
    assert "--add_tags one --apply" in lines[3]


def test_undo_refuses_what_somebody_else_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    caption(folder, "--add_tags", "one", "--apply")
    (folder / "plain.txt").write_text("by hand")
    (folder / "bom.txt").unlink()
    applied = contents(folder)
    capsys.readouterr()
    assert caption(folder, "--undo", "--apply") == 2
    told = capsys.readouterr().err
    assert "plain.txt: was changed" in told and "bom.txt: is gone" in told and contents(folder) == applied
    shutil.copytree(folder, folder.parent / "other")
    assert caption(folder.parent / "other", "--undo", "--apply", "--keep_changed") == 0
    kept = contents(folder.parent / "other")
    assert kept.pop("plain.txt")[0] == b"by hand" and "bom.txt" not in kept
    assert kept == {name: before[name] for name in kept}
    assert caption(folder, "--undo", "--apply", "--force") == 0
    assert {name: content for name, (content, _) in contents(folder).items()} == {
        name: c for name, (c, _) in before.items()
    }


def test_undo_sees_a_change_between_two_steps(folder: Path) -> None:
    caption(folder, "--add_tags", "one", "--apply")
    (folder / "plain.txt").write_text("by hand")
    caption(folder, "--add_tags", "two", "--apply")
    assert caption(folder, "--undo", "--steps", 2, "--apply") == 2
    assert caption(folder, "--undo", "--apply") == 0
    assert (folder / "plain.txt").read_text() == "by hand"


def test_a_step_that_was_cut_short_can_be_undone(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    before = contents(folder)
    written = []

    def killed_at_the_third(source, data) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(source.path.write_bytes(data))

    with monkeypatch.context() as patched:
        patched.setattr(work, "put", killed_at_the_third)
        assert caption(folder, "--add_tags", "one", "--apply") == 130
    assert contents(folder) != before and "--undo takes back those that are" in capsys.readouterr().out
    assert caption(folder, "--undo", "--apply") == 0
    assert contents(folder) == before


def test_a_caption_that_vanishes_or_changes_meanwhile_is_left(folder: Path, monkeypatch, capsys) -> None:
    def meanwhile(self, command, files, record=work.Journal.record):
        (folder / "plain.txt").unlink()
        (folder / "bom.txt").write_text("by hand, longer than before")
        return record(self, command, files)

    with monkeypatch.context() as patched:
        patched.setattr(work.Journal, "record", meanwhile)
        assert caption(folder, "--add_tags", "one", "--apply") == 2
    told = capsys.readouterr()
    assert "plain.txt was changed or removed" in told.err and "Wrote 6 files" in told.out
    assert not (folder / "plain.txt").exists() and (folder / "bom.txt").read_text().startswith("by hand")
    assert caption(folder, "--undo", "--apply") == 0
    assert not (folder / "plain.txt").exists() and (folder / "bom.txt").read_text().startswith("by hand")


def test_a_read_only_caption_stops_everything_before_it_is_written(folder: Path, capsys) -> None:
    (folder / "plain.txt").chmod(0o444)
    before = contents(folder)
    assert caption(folder, "--add_tags", "one", "--apply") == 2
    assert "plain.txt" in capsys.readouterr().err and contents(folder) == before
    assert caption(folder, "--add_tags", "one", "--apply", "--where_missing", "long hair") == 0


def test_unchanged_captions_are_not_rewritten(folder: Path) -> None:
    os.utime(folder / "bom.txt", ns=(0, 0))
    caption(folder, "--remove_tags", "long hair", "--apply")
    assert (folder / "bom.txt").stat().st_mtime_ns == 0
    caption(folder, "--to_utf8", "--apply")
    assert (folder / "bom.txt").read_bytes() == b"smiling, hat"
    assert (folder / "utf16.txt").read_text("utf-8") == "smiling, été"
    assert (folder / "many.txt").read_bytes() == UGLY["many"].encode()  # type: ignore[union-attr]


def test_the_order_of_edits_is_that_of_the_command_line(folder: Path) -> None:
    caption("--prefix", "x", folder, "--replace_tag", "x smiling=y, z", "--max_tags", "2", "--prefix", "w", "--apply")
    assert (folder / "plain.txt").read_text() == "w y, z\n"


def test_filters(folder: Path) -> None:
    before = contents(folder)
    caption(folder, "--where_tag", "SMILING", "--where_missing", "long*", "--files", "b*", "--add_tags", "x", "--apply")
    changed = {name for name, content in contents(folder).items() if content != before[name]}
    assert changed == {"bom.txt"}


def test_links_lead_to_the_file_that_is_written(tmp_path: Path) -> None:
    folder = make(tmp_path / "pictures", {"a": None})
    (tmp_path / "elsewhere.txt").write_text("hat")
    (folder / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    caption(folder, "--add_tags", "x", "--apply")
    assert (folder / "a.txt").is_symlink() and (tmp_path / "elsewhere.txt").read_text() == "hat, x"
    caption(folder, "--undo", "--apply")
    assert (tmp_path / "elsewhere.txt").read_text() == "hat"


def test_a_folder_and_its_captions_may_both_be_links(tmp_path: Path) -> None:
    folder = make(tmp_path / "deep" / "real", {"a": None})
    (tmp_path / "elsewhere").mkdir()
    shared = tmp_path / "elsewhere" / "a.txt"
    shared.write_text("hat")
    (folder / "a.txt").symlink_to(shared)
    (tmp_path / "link").symlink_to(folder)
    caption(tmp_path / "link", "--add_tags", "x", "--apply")
    assert shared.read_text() == "hat, x"
    assert caption(tmp_path / "link", "--undo", "--apply") == 0
    assert shared.read_text() == "hat"


def test_a_caption_that_links_share_is_edited_once(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a": "hat", "b": None, "c": "coat"})
    (folder / "b.txt").symlink_to("a.txt")
    assert caption(folder, "--replace_text", "hat=red hat", "--apply") == 0
    assert (folder / "a.txt").read_text() == "red hat" and (folder / "b.txt").is_symlink()
    assert caption(folder, "--undo", "--apply") == 0
    assert (folder / "a.txt").read_text() == "hat"


JAPANESE = "笑顔, 帽子, 長い髪"


def test_captions_of_an_unknown_encoding_are_left_alone_until_it_is_named(tmp_path: Path, capsys) -> None:
    sjis, latin = JAPANESE.encode("shift_jis"), "smiling, été".encode("cp1252")
    with pytest.raises(UnicodeDecodeError):
        sjis.decode("cp1252")
    folder = make(tmp_path, {"jp": sjis, "latin": latin, "plain": "smiling"})
    for words in (["--apply"], []):
        assert caption(folder, "--add_tags", f"x{len(words)}", *words) == 0
        told = capsys.readouterr().out
        assert "captions are left" not in told, "each for its own reason"
        assert "1 caption is left alone, since bytes are no text in Windows-1252: jp.txt." in told
        assert "1 caption is left alone, since the encoding can only be guessed: latin.txt." in told
        assert "1 of 1 caption" in told and "--encoding NAME" in told
    assert (folder / "plain.txt").read_text() == "smiling, x1"
    assert caption(folder, "--to_utf8", "--apply") == 0
    assert "1 caption is taken for Windows-1252, a guess: latin.txt." in capsys.readouterr().out
    assert (folder / "latin.txt").read_text("utf-8") == "smiling, été" and (folder / "jp.txt").read_bytes() == sjis
    assert caption(folder, "--files", "jp*", "--add_tags", "x", "--apply") == 2, "nothing could be done"
    assert "jp.txt" in capsys.readouterr().err
    assert caption(folder, "--files", "jp*", "--encoding", "euc_jp", "--add_tags", "x", "--apply") == 2, "strictly"
    assert "no text in euc_jp: jp.txt" in capsys.readouterr().err and (folder / "jp.txt").read_bytes() == sjis
    assert caption(folder, "--encoding", "Shift-JIS", "--remove_tags", "帽子", "--apply") == 0
    assert (folder / "jp.txt").read_text("utf-8") == "笑顔, 長い髪"
    assert caption(folder, "--undo", "--apply") == 0 and (folder / "jp.txt").read_bytes() == sjis
    assert caption(folder, "--encoding", "shift_jis", "--to_utf8", "--apply") == 0
    assert (folder / "jp.txt").read_text("utf-8") == JAPANESE


def test_statistics_and_edits_say_the_same_of_an_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"jp": JAPANESE.encode("shift_jis"), "latin": "smiling, été".encode("cp1252")})
    assert caption(folder, "--stats") == 0
    told = capsys.readouterr().err
    assert "1 caption is counted with gaps, since bytes are no text in Windows-1252: jp.txt." in told
    assert "1 caption is read as Windows-1252, a guess: latin.txt." in told
    assert caption(folder, "--stats", "--encoding", "shift_jis", "--files", "jp*") == 0
    assert capsys.readouterr().err == ""


def test_rare_tags_are_not_all_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a": ", ".join(f"tag {number:02}" for number in range(40)), "b": "hat"})
    assert caption(folder, "--stats", "--show", "100") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("in one caption only"))
    assert line.startswith("in one caption only: 41: hat, tag 00,") and "tag 10, and 29 more (--json" in line


def test_only_missing_ones_are_written(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a": "hat", "b": "\n", "c": None})
    words = ["--only_missing", "--template", "{trigger}, {caption}", "--trigger_word", "anna", "--apply"]
    assert caption(folder, *words) == 0
    assert [(folder / f"{name}.txt").read_text().strip() for name in "abc"] == ["hat", "anna", "anna"]
    assert caption(folder, *words) == 2, "there is none left"


@pytest.mark.parametrize(
    ("edit", "made"),
    [
        ("(?<=red )hat=cap", "red cap, hat, x=y"),
        ("hat(?=, x)=cap", "red hat, cap, x=y"),
        ("x[=]y=z", "red hat, hat, z"),
        (r"x\=y=z", "red hat, hat, z"),
        ("(?P<first>x)=a=b", "red hat, hat, a=b=y"),
    ],
)
def test_a_regular_expression_may_hold_equals_signs(tmp_path: Path, edit: str, made: str) -> None:
    folder = make(tmp_path, {"a": "red hat, hat, x=y"})
    assert caption(folder, "--replace_regex", edit, "--apply") == 0
    assert (folder / "a.txt").read_text() == made


def test_metadata_of_an_unknown_encoding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "meta.json"
    table.write_bytes(json.dumps({"a.png": {"tags": JAPANESE}}, ensure_ascii=False).encode("shift_jis"))
    before = table.read_bytes()
    for words in (["--add_tags", "x"], ["--to_utf8"]):
        assert caption("--in_json", table, *words, "--apply") == 2
        assert "meta.json" in capsys.readouterr().err and table.read_bytes() == before
    assert caption("--in_json", table, "--encoding", "shift_jis", "--add_tags", "x", "--apply") == 0
    assert json.loads(table.read_text("utf-8")) == {"a.png": {"tags": f"{JAPANESE}, x"}}


def test_utf16_that_is_cut_is_never_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a": "hat, coat".encode("utf-16")[:-1], "b": "hat"})
    before = contents(folder)["a.txt"]
    caption(folder, "--add_tags", "x", "--to_utf8", "--apply")
    assert contents(folder)["a.txt"] == before and "no text in UTF-16: a.txt" in capsys.readouterr().out


def test_files_that_are_no_pictures_get_no_caption(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"good": None, "page": None, "void": None, "torn": None, "told": "hat"})
    (folder / "page.png").write_bytes(b"<!DOCTYPE html><html></html>")
    (folder / "void.png").write_bytes(b"")
    (folder / "torn.png").write_bytes(PICTURE[:30])
    (folder / "told.png").write_bytes(b"never opened, since it has a caption")
    assert caption(folder, "--create", "--add_tags", "x", "--apply") == 0
    told = capsys.readouterr().out
    for name, reason in (("page", "is a web page"), ("void", "is empty (0 bytes)"), ("torn", "is not a picture")):
        assert f"{name}.png {reason}" in told and not (folder / f"{name}.txt").exists(), name
    assert (folder / "good.txt").read_text() == "x\n" and (folder / "told.txt").read_text() == "hat, x"
    assert caption(folder, "--create", "--files", "void*", "--add_tags", "x", "--apply") == 2
    caption(folder, "--create", "--add_tags", "y", "--show", 1)
    assert "nor do 2 more" in capsys.readouterr().out


def test_what_undoing_has_left_can_still_be_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a": "one", "b": "two", "c": "three"})
    before = contents(folder)
    caption(folder, "--add_tags", "x", "--apply")
    first = contents(folder)
    caption(folder, "--add_tags", "y", "--files", "[ab]*", "--apply")
    (folder / "a.txt").write_text("by hand")
    capsys.readouterr()
    assert caption(folder, "--undo", "--keep_changed") == 0
    told = capsys.readouterr().out
    assert "Would leave 1 file alone" in told and "- by hand" not in told
    assert caption(folder, "--undo", "--keep_changed", "--apply") == 0
    told = capsys.readouterr().out
    assert "Restored 1 file." in told and f"Left 1 file alone: {folder / 'a.txt'} was changed" in told
    assert (folder / "a.txt").read_text() == "by hand" and contents(folder)["b.txt"] == first["b.txt"]
    caption(folder, "--history")
    assert "1 file  (left when the others were undone)" in capsys.readouterr().out
    (folder / "b.txt").write_text("by hand, later")
    assert caption(folder, "--undo", "--force", "--apply") == 0
    assert contents(folder)["a.txt"] == first["a.txt"] and (folder / "b.txt").read_text() == "by hand, later"
    assert caption(folder, "--undo", "--force", "--apply") == 0
    assert contents(folder) == before


def test_the_rest_of_a_step_does_not_bar_the_way_to_earlier_ones(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a": "one", "b": "two"})
    before = contents(folder)
    caption(folder, "--add_tags", "x", "--files", "b*", "--apply")
    caption(folder, "--add_tags", "y", "--files", "a*", "--apply")
    (folder / "a.txt").write_text("by hand")
    assert caption(folder, "--undo", "--keep_changed", "--apply") == 0
    assert caption(folder, "--undo", "--apply") == 0
    assert contents(folder)["b.txt"] == before["b.txt"] and (folder / "a.txt").read_text() == "by hand"


@pytest.mark.parametrize("work", [["--stats"], ["--add_tags", "x"]])
def test_where_nothing_is_there_the_reason_is_told(tmp_path: Path, work: list[str], capsys) -> None:
    make(tmp_path, {"sub/a": "hat, red coat"})
    assert caption(tmp_path, *work) == 2
    assert "neither a caption nor a picture here. --recursive looks into subfolders." in capsys.readouterr().err
    assert caption(tmp_path / "sub", *work, "--where_tag", "red cot") == 2
    assert "no caption has the tag 'red cot'. Did you mean 'red coat'?" in capsys.readouterr().err
    assert caption(tmp_path / "sub", *work, "--where_tag", "hat", "--files", "b*") == 2
    assert "of 1 caption none is left by --where_tag and --files" in capsys.readouterr().err
    (tmp_path / "sub" / "a.txt").unlink()
    assert caption(tmp_path / "sub", "--add_tags", "x") == 2
    assert "--create makes them for the 1 picture that has none" in capsys.readouterr().err
    assert caption(tmp_path / "sub", "--stats") == 0
    assert "0 captions, 0 empty ones, 1 picture without a caption." in capsys.readouterr().out


def test_extensions_and_subfolders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a": "one", "sub/b": "one", ".hidden/c": "one"})
    (folder / "a.caption").write_text("two")
    (folder / "notes.txt").write_text("not a caption")
    before = contents(folder)
    caption(folder, "--recursive", "--add_tags", "x", "--apply")
    after = contents(folder)
    assert {name for name in after if after[name] != before[name]} == {"a.caption", "sub/b.txt"}
    assert "2 text files belong to no picture, left alone: a.txt, notes.txt." in capsys.readouterr().err
    caption(folder, "--caption_extension", "txt", "--add_tags", "x", "--apply")
    assert (folder / "a.txt").read_text() == "one, x"


def test_statistics(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert caption(folder, "--stats", "--json", "--trigger_word", "hat") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["captions"], found["empty"], found["missing"]) == (7, 2, 1)
    assert found["tags"][0] == {"tag": "smiling", "captions": 7, "share": 1.0} and found["in_every_caption"] == [
        "smiling"
    ]
    assert "bom.txt" not in found["without_trigger"] and len(found["without_trigger"]) == 6
    (folder / "stray.txt").write_text("no picture's")
    caption(folder, "--stats", "--json")
    assert json.loads(capsys.readouterr().out) == found | {"without_trigger": None}
    assert found["too_long"] == ["many.txt"] and found["tags_each"] == {"least": 1, "median": 2, "most": 5001}
    caption(folder, "--stats", "--where_tag", "long hair")
    told = capsys.readouterr().out
    assert "2 100.0% ########################  long_hair" in told and "in one caption" not in told


def test_metadata_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, lines = tmp_path / "meta.json", tmp_path / "meta.jsonl"
    table.write_text(
        json.dumps({"a.png": {"tags": "hat, été", "caption": "a hat", "size": [1, 2]}, "b.png": {"caption": "a hat"}})
    )
    lines.write_bytes('{"image_path":  "a.png", "caption": "hat, été"}\r\n\r\n{"file_name": "b.png", "text": "coat"}\n'.encode())  # fmt: skip
    before = contents(tmp_path)
    assert caption("--in_json", table, "--in_json", lines, "--replace_tag", "hat=cap", "--apply") == 0
    assert json.loads(table.read_text()) == {
        "a.png": {"tags": "cap, été", "caption": "a hat", "size": [1, 2]}, "b.png": {"caption": "a hat"}
    }  # fmt: skip
    written = lines.read_bytes().split(b"\n")
    assert json.loads(written[0]) == {"image_path": "a.png", "caption": "cap, été"} and written[0].endswith(b"\r")
    assert written[2] == b'{"file_name": "b.png", "text": "coat"}'
    assert caption("--in_json", lines, "--replace_text", "coat=jacket", "--apply") == 0
    assert '"text": "jacket"' in lines.read_text("utf-8")
    capsys.readouterr()
    assert caption("--in_json", table, "--undo", "--steps", 2, "--apply") == 0
    assert contents(tmp_path) == before
    assert caption("--in_json", table, "--in_json", table, "--dedupe") == 2
    assert "edited twice" in capsys.readouterr().err


def test_of_several_lines_about_a_picture_the_last_is_edited(tmp_path: Path) -> None:
    lines = tmp_path / "meta.jsonl"
    lines.write_text('{"file_name": "a.png", "text": "one, x"}\n{"file_name": "a.png", "text": "two, x"}\n')
    assert caption("--in_json", lines, "--remove_tags", "x", "--apply") == 0
    assert [json.loads(line)["text"] for line in lines.read_text().splitlines()] == ["one, x", "two"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--apply"], "nothing to do"),
        (["--trigger_word", "anna"], "nothing to do"),
        (["--trigger_first"], "--trigger_word WORD"),
        (["--trigger_first", "--trigger_word", ","], "--trigger_word WORD"),
        (["--template", "{class}"], "--class_word WORD"),
        (["--template", "{clas}"], "Did you mean 'class'"),
        (["--replace_tag", "hat"], "OLD=NEW"),
        (["--replace_regex", "(=x"], "no regular expression"),
        (["--replace_regex", r"a=\2"], "no regular expression"),
        (["--max_tags", "none"], "whole number"),
        (["--sort_tags", "size"], "'alphabet' or 'frequency'"),
        (["--remove_tags", " "], "is empty"),
        (["--replace_regex", "x"], "PATTERN=NEW"),
        (["--replace_regex", "=x=y"], "PATTERN=NEW"),
        (["--add_tags_after", "foo"], "--add_tags_after foo: TAG=TAGS is expected"),
        (
            ["--stats", "--to_utf8", "--dedupe", "--remove_tags", "x", "--dedupe"],
            "leave out --remove_tags, --dedupe, --to_utf8.",
        ),
        (
            ["--where_tag", "x"],
            "without an edit (--add_tags, ...), --create, --to_utf8, --stats, --tagger or --captioner.",
        ),
        (["--to_utf8", "--encoding", "shift-jsi"], "no such encoding of texts. Did you mean 'shiftjis'?"),
        (["--to_utf8", "--encoding", "hex"], "no such encoding of texts"),
        (["--stats", "--undo"], "cannot be done in one go"),
        (["--dedupe", "--mode", "append"], "no effect without --tagger or --captioner"),
        (["--undo", "--files", "a*"], "--files has no effect"),
        (["--stats", "--only_missing"], "--only_missing has no effect"),
        (["--undo"], "no step to undo"),
    ],
)
def test_mistakes_are_told(folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert caption(folder, *words) == 2
    assert message in capsys.readouterr().err and contents(folder) == before


def test_wrong_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "anna", {"a": "x"})
    assert caption(tmp_path / "ana", "--dedupe") == 2
    assert "Did you mean 'anna'" in capsys.readouterr().err
    assert caption(tmp_path, tmp_path / "anna", "--recursive", "--dedupe") == 2
    assert "edited twice" in capsys.readouterr().err


def test_a_misspelt_tag_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caption(folder, "--remove_tags", "smilling, long hair", "--trigger_word", "emoji", "--trigger_first")
    told = capsys.readouterr().out
    assert (
        "the tag 'smilling' is in none of these captions. Did you mean 'smiling'?" in told and "'long hair'" not in told
    )


def test_a_trigger_within_a_sentence_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a": "a photo of anna, smiling", "b": "hat"})
    caption(folder, "--trigger_word", "anna", "--trigger_first", "--apply")
    assert "in 1 line 'anna' stands within" in capsys.readouterr().out
    assert (folder / "b.txt").read_text() == "anna, hat"


def test_what_strangers_wrote_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path, {"a\x1b[2J": "\x1b[31mred, hat"})
    caption(folder, "--add_tags", "x")
    caption(folder, "--stats")
    assert "\x1b" not in capsys.readouterr().out


def test_a_damaged_journal_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    caption(folder, "--add_tags", "one", "--apply")
    journal = folder / ".dojo" / "captions.sqlite"
    with sqlite3.connect(journal) as base:
        assert base.execute("SELECT COUNT(*) FROM files").fetchone() == (8,)
    journal.write_bytes(b"nothing of the kind" * 100)
    before = contents(folder)
    assert caption(folder, "--undo") == 2 and caption(folder, "--add_tags", "two", "--apply") == 2
    assert "captions.sqlite cannot be used" in capsys.readouterr().err and contents(folder) == before


def test_terminals_get_colours(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(work, "has_colours", lambda stream: stream is sys.stdout)
    caption(folder, "--remove_tags", "smiling", "--files", "plain*")
    assert "  - \x1b[31;9msmiling, \x1b[0mlong_hair" in capsys.readouterr().out
    caption(folder, "--remove_tags", "tag 77", "--files", "many*")
    told = capsys.readouterr().out
    assert "tag 76, \x1b[31;9mtag 77, \x1b[0mtag 78" in told and len(told) < 1000


def test_the_trainer_reads_what_is_written(folder: Path) -> None:
    caption(folder, "--replace_tag", "smiling=été 😀", "--apply")
    for name in ("plain", "bom", "utf16"):
        text, encoding = caption_in((folder / f"{name}.txt").read_bytes())
        assert text.startswith("été 😀") and encoding == ""


def test_editing_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from library.cli.main import main\n"
        f"assert main(['dataset', 'caption', {str(folder)!r}, '--add_tags', 'x', '--apply']) == 0\n"
        f"assert main(['dataset', 'caption', {str(folder)!r}, '--stats']) == 0\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stderr.splitlines()[-1] == "False"
