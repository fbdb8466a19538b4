"""A TOML file as settings, each with the line on which it stands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_origin

from library.config.catalog import catalog
from library.config.dataset_tables import dataset_keys
from library.config.places import is_preset, shown_path
from library.config.settings import Setting
from library.core.documents import DocumentError, parse_toml
from library.core.errors import UserError

WORDS_OF_THE_RUN = ("trigger_word", "class_word")
KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
LARGEST = 2**20
"""Bytes of a config; the longest ones have some ten thousand."""

HEADER = re.compile(r"\s*\[\[?([^\[\]]+)\]\]?\s*(#.*)?$")


def read_settings(path: Path) -> list[Setting]:
    """The settings of a file: keys at its top, and those of its sections, whose names are for the reader's eye.

    Raises:
        UserError: the file cannot be read, or is not TOML; with file and line.
    """
    name = shown_path(path)
    text = read_text(path)
    try:
        content = parse_toml(text)
    except DocumentError as error:
        raise UserError(_syntax_message(name, str(error))) from error
    lines = line_numbers(text)

    def place(section: str, key: str) -> str:
        line = lines.get((section, key)) or lines.get(("", section)) or lines.get(("", key))
        return f"{name}:{line}" if line else name

    preset = is_preset(path)
    return [Setting(key, value, place(section, key), preset) for section, key, value in flattened(content)]


def read_text(path: Path) -> str:
    """The file as text, with or without a byte order mark.

    Raises:
        UserError: it cannot be read, is not UTF-8, or too large for a config, as a model is that was given by mistake.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{shown_path(path)}: larger than {LARGEST >> 20} MiB, so this is no config.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{shown_path(path)}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{shown_path(path)}: not UTF-8 text. Save it as UTF-8 in your editor.") from error


def flattened(content: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(section, key, value) of every key; section is '' at the top of the file.

    [general] is a dataset table where the file has [[datasets]], and a section like any other where not; options of the
    whole run that stand in it are taken out in any case.
    """
    for name, value in content.items():
        if not isinstance(value, dict) or (_takes_table(name) and name != "general"):
            yield "", name, value
        elif name == "general" and "datasets" in content:
            of_datasets = dataset_keys().keys() - set(WORDS_OF_THE_RUN)
            of_run = catalog().keys() - of_datasets
            yield "", name, {key: item for key, item in value.items() if key not in of_run}
            yield from ((name, key, item) for key, item in value.items() if key in of_run)
        else:
            yield from ((name, key, item) for key, item in value.items())


def line_numbers(text: str) -> dict[tuple[str, str], int]:
    """(section, key) -> the line, from 1, of its first appearance; a section's header counts as the key ('', section)."""
    found: dict[tuple[str, str], int] = {}
    section, string_end = "", ""
    for number, line in enumerate(text.splitlines(), start=1):
        if string_end:
            string_end = "" if string_end in line else string_end
            continue
        if header := HEADER.match(line):
            section = _parts(header[1])[0]
            found.setdefault(("", section), number)
        elif key := KEY.match(line):
            parts = _parts(key[1])
            place = (section, parts[0]) if len(parts) == 1 else (parts[0], parts[1])
            found.setdefault(place, number)
        string_end = _open_string(line)
    return found


def _parts(name: str) -> list[str]:
    return [part.strip().strip("\"'") for part in name.split(".")]


def _open_string(line: str) -> str:
    """The delimiter of a multi-line string that begins on this line and does not end on it."""
    for delimiter in ('"""', "'''"):
        if line.count(delimiter) % 2 == 1:
            return delimiter
    return ""


def _takes_table(name: str) -> bool:
    declared = catalog().get(name)
    return declared is not None and get_origin(declared.annotation) is dict


def _syntax_message(name: str, error: str) -> str:
    at = re.search(r"\(at line (\d+), column \d+\)", error)
    where = f"{name}:{at[1]}" if at else name
    reason = error[: at.start()].strip() if at else error
    hint = " Each key may stand once in a section." if "overwrite" in reason else ""
    return f"{where}: not valid TOML: {reason}.{hint} (Text stands in quotes; true and false in lower case.)"
