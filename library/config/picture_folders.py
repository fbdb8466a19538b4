"""Folders of pictures as train_data_dir and reg_data_dir lay them out: `{repeats}_{class tokens}`, or plain."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from library.config.findings import Findings
from library.config.schema.data import MOST_REPEATS
from library.core.files import is_file, is_folder

IMAGE_EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""Endings of picture files, in lower case."""


@dataclass(frozen=True)
class PictureFolder:
    """A folder whose own pictures are used."""

    path: Path
    repeats: int
    class_tokens: str | None


def find_picture_folders(root: str, key: str, findings: Findings) -> list[PictureFolder]:
    """The folders with pictures in `root`: itself, and those directly below it, sorted by name.

    Args:
        root: value of the option.
        key: the option, for messages (train_data_dir).
        findings: takes a mistake where there is no such folder or no picture in it, and notices for folders whose
            name gives no number of repeats; warnings for those without a picture whose name gives one.
    """
    path = Path(root)
    if not path.is_dir():
        what = "is a file, not a folder" if path.is_file() else "does not exist"
        findings.mistakes.append(f'{key} = "{root}": this folder {what} (looked for it at {path.resolve()}).')
        return []
    folders = []
    if has_pictures(path):
        folders.append(PictureFolder(path, 1, None))
    for folder in _subfolders(path):
        if has_pictures(folder):
            folders += _named_folder(folder, key, findings)
        elif re.match("0*[1-9][0-9]*_", folder.name):
            findings.warnings.append(f"{key}: the folder '{folder}' is left out: there are no pictures in it.")
    if not folders:
        found = f"no pictures in it, nor in its subfolders (looked in {path.resolve()})"
        advice = _deeper(path) or f"Name the folder that holds them; read are {', '.join(sorted(IMAGE_EXTENSIONS))}."
        findings.mistakes.append(f'{key} = "{root}": {found}. {advice}')
    elif len(folders) > 1 and folders[0].path == path:
        findings.notices.append(f"{key}: pictures directly in '{root}' are used with 1 repeat, beside its subfolders.")
    return folders


def has_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in the folder."""
    with os.scandir(folder) as entries:
        return any(os.path.splitext(each.name)[1].lower() in IMAGE_EXTENSIONS and is_file(each) for each in entries)  # noqa: PTH122


def _named_folder(folder: Path, key: str, findings: Findings) -> list[PictureFolder]:
    match = re.fullmatch(r"(\d+)_(.*)", folder.name)
    if match is None:
        findings.notices.append(
            f"{key}: folder '{folder.name}' is used with 1 repeat; name it '10_{folder.name}' to repeat it 10 times."
        )
        return [PictureFolder(folder, 1, None)]
    repeats, tokens = int(match[1]), match[2].strip()
    if repeats > MOST_REPEATS:
        findings.mistakes.append(
            f"{key}: the name of the folder '{folder.name}' asks for {repeats} repeats; at most {MOST_REPEATS} are possible. "
            f"Name it '1_{tokens or folder.name}' where the number is not meant as repeats."
        )
        return []
    if repeats == 0:
        findings.notices.append(f"{key}: folder '{folder.name}' is left out, as its name says 0 repeats.")
        return []
    return [PictureFolder(folder, repeats, tokens or None)]


def _subfolders(path: Path) -> Iterable[Path]:
    """Folders directly below, hidden ones left out."""
    with os.scandir(path) as entries:
        return sorted(path / each.name for each in entries if is_folder(each) and not each.name.startswith((".", "@")))


def _deeper(path: Path) -> str:
    """Where the pictures seem to be instead: two levels down; "" where there are none."""
    for child in _subfolders(path):
        if any(has_pictures(grandchild) for grandchild in _subfolders(child)):
            return f"There are some below '{child}': is that the folder you mean?"
    return ""
