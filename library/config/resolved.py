"""The resolved configuration: one flat table, and the file that reproduces the run."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
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
    text = HEADER.format(name=path.name) + written(content)
    if tomllib.loads(text) != content:
        wrong = [key for section in content.values() for key, value in section.items() if not _round_trips(key, value)]
        raise UserError(f"{path}: these values cannot be written as TOML: {', '.join(wrong)}.")
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))


def written(content: dict[str, Any]) -> str:
    """TOML, by the package `toml` with an encoder for text that loses no character."""
    import toml

    encoder = toml.TomlEncoder()
    encoder.dump_funcs[str] = _quoted
    return toml.dumps(content, encoder=encoder)


def _by_section(config: Config) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    for key, value in as_flat_dict(config).items():
        if value is not None:
            sections.setdefault(catalog()[key].group, {})[key] = value
    return sections


def _quoted(text: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, but for the delete character, which JSON leaves alone."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _round_trips(key: str, value: Any) -> bool:
    try:
        return tomllib.loads(written({key: value})) == {key: value}
    except tomllib.TOMLDecodeError:
        return False
