"""TOML and JSON from outside."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from library.core.documents import DEEPEST, DocumentError, parse_json, parse_toml


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_may_be_nested_as_deep_as_is_said(opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    inner = "[]" if opening == "[" else "{}"
    parse_json(opening * (DEEPEST - 1) + inner + closing * (DEEPEST - 1))
    for depth in (DEEPEST, 500, 100_000):
        with pytest.raises(DocumentError, match=f"more than {DEEPEST} deep"):
            parse_json(opening * depth + inner + closing * depth)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = " + "[" * 2000 + "]" * 2000, "deep"),
        ("x = " + "9" * 5000, "thousands of digits"),
        ("ok = 1\na" + ".a" * 64 + " = 1", r"more than 64 parts \(at line 2"),
        ('"a b"' + '. "a b"' * 64 + " = 1", "more than 64 parts"),
        ("x = {a" + ".a" * 64 + " = 1}", "more than 64 parts"),
        ('x = "a\\u0000"', r"U\+0000"),
        ('"a\\u0000" = 1', r"U\+0000"),
        ("x = ", "Invalid value"),
        ("x = 0x1" + "0" * 5000, "more than 64 bits"),
        ("[a]\nx = [[-18446744073709551616]]", "more than 64 bits"),
    ],
)
def test_toml_that_is_refused(text: str, told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        parse_toml(text)


@pytest.mark.parametrize("text", ['["\\ud800"]', '{"a": {"\\udc00b": 1}}', '"\\u0000"'])
def test_what_is_no_character_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="which is no character"):
        parse_json(text)


def test_what_is_usual_is_read() -> None:
    assert parse_toml("x = 0xffff_ffff_ffff_ffff") == {"x": 2**64 - 1}
    assert parse_json('{"a": [1, 2.5, null, "\\ud83d\\ude00"]}') == {"a": [1, 2.5, None, "😀"]}
    text = "a.b.c = 1\ntext = '" + "x." * 40 + "'\n[t]\nlong = '" + "y" * 200_000 + "'"
    assert parse_toml(text)["a"] == {"b": {"c": 1}}


@settings(max_examples=100, deadline=None, database=None)
@given(st.text(alphabet='[]{}"=.,a1\n#\\u0', max_size=60))
@example("[")
def test_any_text_is_a_document_or_refused(text: str) -> None:
    for parse in (parse_json, parse_toml):
        try:
            parse(text)
        except DocumentError as error:
            assert str(error)
