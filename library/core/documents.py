"""TOML and JSON from outside, parsed into what the rest of the program can hold, or refused with a reason.

The parsers themselves let through, or fall over, what a file may well hold: nesting that exhausts the stack, numbers of thousands
of digits, halves of characters that cannot be printed, and zero characters that no path may have.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

DEEPEST = 32
"""Levels of lists and tables; no document that means something here has more than six."""

MOST_PARTS = 64
"""Of a dotted TOML key; the parser's time grows with their square."""

LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MOST_PARTS}}}""")
BACKSLASH = re.compile(r"Unescaped '\\' in a string|Invalid hex value")
"""What the parser says of "C:\\models" and "C:\\users", by far the most frequent mistake in configs from Windows."""

UNUSABLE = re.compile("[\0\ud800-\udfff]")
MOST_BITS = 64
"""Of a whole number; one in hexadecimal may have so many that it cannot even be printed."""


class DocumentError(ValueError):
    """What is wrong with a document, to stand in a message that names its file."""


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML document.

    Raises:
        DocumentError: not TOML, or a content that nothing here can use.
    """
    if found := LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise DocumentError(f"A key has more than {MOST_PARTS} parts (at line {line}, column 1)")
    try:
        return _parsed(tomllib.loads, text)
    except DocumentError as error:
        hint = r"\g<0>; a path with backslashes stands in single quotes, as in 'C:\\pictures'"
        raise DocumentError(BACKSLASH.sub(hint, str(error))) from error


def parse_json(text: str) -> Any:
    """The value of a JSON document.

    Raises:
        DocumentError: not JSON, or a content that nothing here can use.
    """
    return _parsed(json.loads, text)


def _parsed(parse: Callable[[str], Any], text: str) -> Any:
    try:
        document = parse(text)
    except RecursionError:
        raise DocumentError(_TOO_DEEP) from None
    except ValueError as error:
        many_digits = "Exceeds the limit" in str(error)  # Python's own message goes on to settings of the interpreter
        raise DocumentError("A number has thousands of digits" if many_digits else str(error)) from error
    for value in _values(document):
        if isinstance(value, str) and (found := UNUSABLE.search(value)):
            raise DocumentError(f"The text {_shortened(value)} holds U+{ord(found[0]):04X}, which is no character")
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise DocumentError(f"A number has more than {MOST_BITS} bits")
    return document


def _values(document: Any) -> Iterator[Any]:
    """Every key in the document, and everything else in it that is no list or table.

    Raises:
        DocumentError: it is nested too deeply.
    """
    level = [document]
    for _ in range(DEEPEST):
        tables = [value for value in level if isinstance(value, dict)]
        lists = [value for value in level if isinstance(value, list)]
        yield from (value for value in level if not isinstance(value, (dict, list)))
        yield from (key for table in tables for key in table)
        level = [item for table in tables for item in table.values()] + [item for each in lists for item in each]
        if not level:
            return
    raise DocumentError(_TOO_DEEP)


def _shortened(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "...")


_TOO_DEEP = f"Lists and tables are nested more than {DEEPEST} deep"
