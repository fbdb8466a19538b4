from __future__ import annotations

import json
from pathlib import Path

import pytest

from library.core.errors import UserError
from library.data.captions.files import caption_in, metadata_caption, read_metadata

WORDS = "café, naïve – “boxer”"


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, said: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(WORDS.encode(encoding))
    assert caption_in(path.read_bytes()) == (WORDS, said)


def test_emoji_and_other_scripts(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("🥊 бокс, 拳击", encoding="utf-8")
    assert caption_in(path.read_bytes()) == ("🥊 бокс, 拳击", "")


def test_blank_lines_and_spaces_go(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf\r\n  one, two \r\n\r\nthree\r\n")
    assert caption_in(path.read_bytes())[0] == "one, two\nthree"


def test_metadata_tables_and_lines_say_the_same(tmp_path: Path) -> None:
    entries = {"a.png": {"caption": "x", "tags": "y"}, "b": {"tags": "z"}}
    (tmp_path / "m.json").write_text(json.dumps(entries), encoding="utf-8")
    lines = [{"image_path": "a.png", "caption": "x", "tags": "y"}, {"file_name": "b", "text": "z"}]
    (tmp_path / "m.jsonl").write_text("\n\n".join(map(json.dumps, lines)), encoding="utf-8")
    table, listed = read_metadata(tmp_path / "m.json"), read_metadata(tmp_path / "m.jsonl")
    assert list(table) == list(listed)
    assert [metadata_caption(entry, ",") for entry in table.values()] == ["x,y", "z"]
    assert [metadata_caption(entry, ",") for entry in listed.values()] == ["x,y", "z"]


def test_tags_go_with_every_line() -> None:
    assert metadata_caption({"caption": "one\ntwo", "tags": "a\nb"}, ",") == "one,a,b\ntwo,a,b"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.json", "{", "not valid JSON"),
        ("m.json", "[1]", "a table"),
        ("m.json", '{"a": "caption"}', "a table"),
        ("m.jsonl", '{"caption": "x"}', "line 1"),
        ("m.jsonl", '{"image_path": "a"}\nnonsense', "line 2"),
    ],
)
def test_malformed_metadata_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=said) as caught:
        read_metadata(tmp_path / name)
    assert name in str(caught.value)


def test_missing_metadata_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.json"):
        read_metadata(tmp_path / "nowhere.json")
