"""Reading caption files and metadata as people really have them: several encodings, byte-order marks, blank lines."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError

GUESSED = "Windows-1252"
"""What a text is taken for that says nothing of its encoding and is no UTF-8."""

LOST = "\ufffd"
"""What stands in a text for bytes that are none of its encoding."""


def caption_in(data: bytes) -> tuple[str, str]:
    """The caption in a file's bytes, and a remark.

    Returns:
        The lines that are not blank, stripped and joined by a newline; and "" or the encoding that had to be guessed.
    """
    text, encoding = decoded(data)
    return clean_lines(text), encoding


def clean_lines(text: str) -> str:
    """Lines without surrounding space; blank ones left out."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def decoded(data: bytes) -> tuple[str, str]:
    """Text of a caption file, and the encoding where it is not UTF-8 (else "").

    UTF-8 with or without mark, UTF-32 with mark, UTF-16 with mark or recognised by its zero bytes, else Windows-1252.
    """
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return data.decode("utf-32", errors="replace"), "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace"), "UTF-16"
    if b"\0" in data:
        little = data[1::2].count(0) >= data[0::2].count(0)
        return data.decode("utf-16-le" if little else "utf-16-be", errors="replace"), "UTF-16"
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), GUESSED


def is_whole(text: str, encoding: str) -> bool:
    """Whether every byte of a file is in what `decoded` has made of it; else what it held would be lost with it."""
    return not encoding or LOST not in text


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """Metadata of a fine-tuning subset: picture -> {"caption", "tags", ...}.

    A .json file maps pictures to such tables. A .jsonl file has one table a line, with the picture as `image_path`
    (or `file_name`) and the caption as `caption` (or `text`).

    Raises:
        UserError: the file is missing or is not of that form.
    """
    try:
        text, _ = decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"metadata_file {path}: cannot be read ({error.strerror or error}).") from error
    return metadata_in(text, path)


def metadata_in(text: str, path: Path) -> dict[str, dict[str, Any]]:
    """The same, of a file's text; `path` tells its form.

    Raises:
        UserError: it is not of that form.
    """
    return _from_lines(text, path) if path.suffix.lower() == ".jsonl" else _from_table(text, path)


def metadata_caption(entry: Mapping[str, Any], separator: str) -> str:
    """Caption of a metadata entry: its `caption`, each line of it followed by its `tags` on one line."""
    caption, tags = (str(entry.get(name) or "") for name in ("caption", "tags"))
    caption, tags = clean_lines(caption), clean_lines(tags)
    if not caption or not tags:
        return caption or tags
    tags = tags.replace("\n", separator)
    return "\n".join(f"{line}{separator}{tags}" for line in caption.split("\n"))


def _from_table(text: str, path: Path) -> dict[str, dict[str, Any]]:
    table = _parsed(text, path, "")
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        raise UserError(
            f'metadata_file {path}: a table {{"picture.png": {{"caption": "..."}}, ...}} is expected, one entry a picture.'
        )
    return table


def _from_lines(text: str, path: Path) -> dict[str, dict[str, Any]]:
    entries = {}
    for number, line in enumerate(text.split("\n"), start=1):  # other line ends, U+2028 say, may stand in JSON's texts
        if not line.strip():
            continue
        entry = _parsed(line, path, f" line {number}")
        name = (entry.get("image_path") or entry.get("file_name")) if isinstance(entry, dict) else None
        if not isinstance(name, str):
            raise UserError(
                f'metadata_file {path} line {number}: {{"image_path": "picture.png", "caption": "..."}} is expected.'
            )
        entries[name] = {"caption": entry.get("text"), **entry}
    return entries


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return parse_json(text)
    except DocumentError as error:
        raise UserError(f"metadata_file {path}{where}: is not valid JSON ({error}).") from error
