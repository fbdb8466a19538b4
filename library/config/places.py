"""Where things are: the project's own folders, presets by name, and the paths in a configuration."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from library.core.errors import UserError, did_you_mean

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PRESETS = PROJECT_ROOT / "presets"
CHARACTERS = PRESETS / "characters"


def find_config(name: str, folder: Path, key: str) -> Path:
    """The file that `name` means: in `folder`, then among the presets; with or without .toml.

    Args:
        key: the option that gave the name, for messages.

    Raises:
        UserError: there is no such file.
    """
    try:
        asked = Path(reachable(name))
    except ValueError as error:
        raise UserError(f'{key} = "{name}": expected {error}.') from error
    names = [asked] if asked.suffix == ".toml" else [asked, asked.parent / f"{asked.name}.toml"]
    for candidate in [*(folder / each for each in names), *(PRESETS / each for each in names)]:
        if candidate.is_file():
            return candidate
    if (folder / asked).is_dir():
        raise UserError(
            f'{key} = "{name}": is a folder, and a configuration is a file. If your pictures are in it: --train_data_dir {name}'
        )
    known = preset_names()
    raise UserError(
        f'{key} = "{name}": no such file (looked in {folder.resolve()} and {PRESETS}).'
        f"{did_you_mean(asked.as_posix().removesuffix('.toml'), known)} Presets: {', '.join(known)}."
    )


def preset_names() -> list[str]:
    """The project's presets, such as "memory/8gb"; sheets of characters, which lie beside them, are none."""
    files = [path for path in PRESETS.rglob("*.toml") if path.parent != CHARACTERS]
    return sorted(path.relative_to(PRESETS).with_suffix("").as_posix() for path in files)


def is_preset(path: Path) -> bool:
    """Whether the file lies in the project's presets folder."""
    return path.resolve().is_relative_to(PRESETS)


def shown_path(path: Path) -> str:
    """The path from the current directory or the project's root where it lies below, else whole."""
    whole = path.resolve()
    for root in (Path.cwd(), PROJECT_ROOT):
        if whole.is_relative_to(root):
            return whole.relative_to(root).as_posix()
    return whole.as_posix()


def placed(value: Any, kind: str | None, from_preset: bool) -> Any:
    """A path as it is used: `~` is the home folder, and slashes lean forward.

    Paths to read, in the project's own presets, start at the project's root where something lies there; all others
    start at the current directory.

    Raises:
        ValueError: no file can have this path, or this user may not look there.
    """
    if kind is None:
        return value
    if isinstance(value, list):
        return [placed(item, kind, from_preset) for item in value]
    if not isinstance(value, str) or not value:
        return value
    value = reachable(value)
    if from_preset and kind == "input" and (PROJECT_ROOT / value).exists():
        value = str(PROJECT_ROOT / value)
    return value.replace("\\", "/") if os.name == "nt" else value


def reachable(path: str) -> str:
    """The path with `~` as the home folder; whether anything is there can be asked from now on without an error.

    Raises:
        ValueError: it holds what no path may hold, is too long, or leads through a folder that this user may not read.
    """
    try:
        path = str(Path(path).expanduser()) if path.startswith("~") else path
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        if re.search(r"[\t\n\r\f\b]", path):
            raise ValueError(
                r"a path without tabs and line ends, which \t and \n are in double quotes: write backslashes in single quotes"
            ) from None
        return path
    except RuntimeError:
        raise ValueError("a path; there is no user of that name whose home folder it could be") from None
    except (OSError, ValueError) as error:  # a ValueError is of characters that the system cannot have in a path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"a path that can be looked up ({reason})") from error
    return path
