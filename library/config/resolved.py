"""The resolved configuration: one flat table, and the file that reproduces the run."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from library.config.catalog import catalog
from library.config.schema import Config
from library.core.errors import UserError
from library.core.files import write_atomically

HEADER = "# Every option of this run. Train with it again:  train_network.py --config {name}\n\n"


def as_flat_dict(config: Config) -> dict[str, Any]:
    """Option -> value, of every option, in the order of the schema."""
    groups = {field.name: getattr(config, field.name) for field in fields(config)}
    return {key: getattr(groups[declared.group], key) for key, declared in catalog().items()}


def save_resolved(config: Config, path: Path) -> None:
    """Write every option that is set to a TOML file, which `load_config` reads as exactly this configuration.

    Raises:
        UserError: a value that TOML cannot hold.
    """
    content = _by_section(config)
    if not _round_trips(content):
        wrong = [key for name, each in content.items() for key in each if not _round_trips({name: {key: each[key]}})]
        raise UserError(
            f"{path}: these values cannot be written as TOML: {', '.join(wrong)}. Spell them with other characters."
        )
    text = HEADER.format(name=path.name) + written(content)
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def resolved_text(config: Config) -> str:
    """Every option that is set, as TOML."""
    return written(_by_section(config))


def written(sections: dict[str, dict[str, Any]]) -> str:
    """Sections of options as TOML, by the package `toml`.

    Text, and lists and tables within a value, are handed to it ready made: it loses characters, and mixed lists.
    """
    return _dumped({name: _table(section) for name, section in sections.items()})


def dataset_text(tables: dict[str, Any]) -> str:
    """The keys `general` and `datasets` as [general] and [[datasets]]."""
    return _dumped(_table(tables))


def _dumped(content: dict[str, Any]) -> str:
    import toml

    encoder = toml.TomlEncoder()
    encoder.dump_funcs[str] = _inline
    encoder.dump_funcs[_Inline] = lambda value: _inline(value.value)
    return toml.dumps(content, encoder=encoder)


@dataclass(frozen=True)
class _Inline:
    """A list or table that is written on the line of its key."""

    value: Any


def _by_section(config: Config) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {}
    for key, value in as_flat_dict(config).items():
        if value is not None:
            sections.setdefault(catalog()[key].group, {})[key] = value
    return sections


def _table(table: dict[str, Any]) -> dict[str, Any]:
    """Dataset tables keep their headers; any other list or table goes on its key's line."""
    written_as: dict[str, Any] = {}
    for key, value in table.items():
        if key == "general" and isinstance(value, dict):
            written_as[key] = _table(value)
        elif key in ("datasets", "subsets") and value:
            written_as[key] = [_table(each) for each in value]
        else:
            written_as[key] = _Inline(value) if isinstance(value, (list, dict)) else value
    return written_as


def _inline(value: Any) -> str:
    """A value as TOML on one line. JSON's text is TOML's, but for the delete character, which JSON leaves as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _inline(key)


def _round_trips(sections: dict[str, dict[str, Any]]) -> bool:
    """Whether what is written reads back the same."""
    text = written(sections)
    try:
        text.encode("utf-8")
        return tomllib.loads(text) == sections
    except (UnicodeEncodeError, tomllib.TOMLDecodeError):
        return False
