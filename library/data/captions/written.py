"""Captions as they lie on disk, to be edited: found beside their pictures or in a metadata file, and written back."""

from __future__ import annotations

import codecs
import json
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.picture_folders import IMAGE_EXTENSIONS
from library.core.disk import writing
from library.core.errors import UserError
from library.data.captions.files import GUESSED, decoded, is_whole, metadata_in
from library.data.index.folder import Folder
from library.data.index.siblings import Siblings, caption_endings, extension_of, stem_of, suggestion

JSON_FIELDS = ("tags", "caption")
"""Of a metadata entry; the first that it has is edited."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file as it was read."""

    path: Path
    """What the name leads to, where it is a link."""
    data: bytes | None
    """None: there is no such file yet."""
    mode: int = 0
    owner: tuple[int, int] = (0, 0)
    stamp: tuple[int, int] = (0, 0)
    """Size and mtime_ns."""

    @property
    def is_read_only(self) -> bool:
        """Nobody may write it."""
        return self.data is not None and not self.mode & 0o222


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption to be edited."""

    label: str
    """How it is shown: its path within the folder, or the metadata entry's name."""
    text: str
    picture: Path
    source: Written
    encoding: str = ""
    """Where it is not UTF-8 without a mark."""
    is_whole: bool = True
    """Whether `text` is all that the file holds; bytes that are none of the encoding are lost in it."""

    @property
    def is_guess(self) -> bool:
        """Nothing says that it is of this encoding."""
        return self.encoding == GUESSED


@dataclass(frozen=True, slots=True)
class Change:
    """New content for a file."""

    source: Written
    after: bytes


@dataclass(frozen=True)
class CaptionFolder:
    """The captions of a folder's pictures."""

    root: Path
    captions: list[Caption]
    missing: list[Caption]
    """Pictures without a caption, with the file that it would have."""
    strays: list[str]
    """Caption files that belong to no picture."""

    def changes(self, captions: Sequence[Caption], texts: Sequence[str], to_utf8: bool) -> list[Change]:
        """The files whose text is another one, or whose encoding is to be."""
        return [
            Change(caption.source, text.encode("utf-8", "surrogatepass"))
            for caption, text in zip(captions, texts, strict=True)
            if text != caption.text or (to_utf8 and caption.encoding)
        ]


@dataclass(frozen=True)
class MetadataFile:
    """The captions of a metadata file (`in_json`)."""

    root: Path
    """The file's folder."""
    source: Written
    text: str
    captions: list[Caption]
    fields: list[str]
    """Of each caption."""
    missing: tuple[Caption, ...] = ()
    strays: tuple[str, ...] = ()

    def changes(self, captions: Sequence[Caption], texts: Sequence[str], to_utf8: bool) -> list[Change]:
        """The file with the new texts, where there are any."""
        new = {caption.label: text for caption, text in zip(captions, texts, strict=True) if text != caption.text}
        if not new:
            is_meant = to_utf8 and any(caption.encoding for caption in captions)
            return [Change(self.source, self.text.encode())] if is_meant else []
        fields = dict(zip((caption.label for caption in self.captions), self.fields, strict=True))
        write = _rewritten_lines if self.source.path.suffix.lower() == ".jsonl" else _rewritten_table
        return [Change(self.source, write(self.text, new, fields).encode())]


def find_captions(root: Path, recursive: bool, extension: str | None, encoding: str | None = None) -> CaptionFolder:
    """The captions of a folder's pictures; hidden files and folders are passed over.

    Args:
        extension: of caption files; None: whichever of `siblings.CAPTION_EXTENSIONS` there is, .txt for new ones.
        encoding: of those of which it would have to be guessed.

    Raises:
        UserError: there is no such folder, or a caption cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}. {suggestion(root)}")
    endings = caption_endings(extension)
    try:
        names = Folder(root).listing(recursive).names
    except OSError as error:
        place = error.filename or root
        raise UserError(f"{place}: cannot be listed ({error.strerror or error}). Check its rights.") from error
    siblings = Siblings(names, endings)
    real = root.resolve()
    found, missing, used, places = [], [], set(), set()
    for name in names:
        if extension_of(name) not in IMAGE_EXTENSIONS:
            continue
        place = siblings.caption_of(name)
        own = stem_of(name) + endings[-1] if place is None else names[place]
        if own in used:
            continue
        used.add(own)
        if place is None:
            missing.append(Caption(own, "", root / name, Written(root / own, None)))
            continue
        path = root / own
        caption = _read(path, own, root / name, encoding)
        target = caption.source.path
        at = f"{real}{os.sep}{own}" if target == path else str(target)
        if at not in places:  # links may have several pictures share a caption, which is edited once
            places.add(at)
            found.append(caption)
    strays = [name for name in names if name.lower().endswith(endings) and name not in used]
    return CaptionFolder(root, found, missing, strays)


def read_captions(path: Path, encoding: str | None = None) -> MetadataFile:
    """The captions of a metadata file: of each entry its `tags`, else its `caption` (in lines `text`, too).

    Args:
        encoding: of the file, where it would have to be guessed.

    Raises:
        UserError: the file is missing or not of that form.
    """
    source = read_written(path)
    root = path.absolute().parent
    assert source.data is not None
    text, found, whole = _text(source.data, encoding)
    captions, fields = [], []
    for name, entry in metadata_in(text, path).items():
        field = next((each for each in JSON_FIELDS if isinstance(entry.get(each), str)), None)
        if field is not None:
            captions.append(Caption(name, entry[field], root / name, source, found, whole))
            fields.append(field)
    return MetadataFile(root, source, text, captions, fields)


def read_written(path: Path) -> Written:
    """A file's bytes and properties.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # half the time of Path.open, and there are many of these
            facts = os.fstat(file.fileno())
            data = file.read()
        target = path.resolve() if os.path.islink(path) else path  # noqa: PTH114
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Check its name and rights.") from error
    mode = stat.S_IMODE(facts.st_mode)
    return Written(target, data, mode, (facts.st_uid, facts.st_gid), (facts.st_size, facts.st_mtime_ns))


def is_unchanged(source: Written) -> bool:
    """Whether the file is still the one that was read, going by its size and time; a new one still is not there."""
    try:
        facts = os.stat(source.path)  # noqa: PTH116  # as in read_written
    except FileNotFoundError:
        return source.data is None
    return source.data is not None and source.stamp == (facts.st_size, facts.st_mtime_ns)


def put(source: Written, data: bytes) -> None:
    """Write a file whole or not at all, with the rights and owner that it had.

    It is not flushed to disk, which for many small files would take minutes: what it was before is in the journal, and that is.

    Raises:
        UserError: it cannot be written.
    """
    path = source.path
    temporary = f"{path.parent}{os.sep}.{path.name[:200]}.{os.urandom(4).hex()}.tmp"
    with writing(path, len(data)):
        try:
            with open(temporary, "xb") as file:  # noqa: PTH123  # as in read_written
                file.write(data)
                if source.data is not None and os.name != "nt":
                    os.fchmod(file.fileno(), source.mode)
                    if source.owner[0] != os.geteuid():
                        with suppress(PermissionError):  # only root may give files away; the content counts
                            os.fchown(file.fileno(), *source.owner)
            os.replace(temporary, path)  # noqa: PTH105  # as in read_written
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)  # noqa: PTH108  # as in read_written
            raise


def _read(path: Path, name: str, picture: Path, encoding: str | None) -> Caption:
    source = read_written(path)
    assert source.data is not None
    text, found, whole = _text(source.data, encoding)
    if not found and source.data.startswith(codecs.BOM_UTF8):
        found = "UTF-8 with a mark"
    return Caption(name, text, picture, source, found, whole)


def _text(data: bytes, named: str | None) -> tuple[str, str, bool]:
    """Text, its encoding as `decoded` tells it, or `named` in place of a guess, and whether the text is whole."""
    text, encoding = decoded(data)
    if encoding == GUESSED and named is not None:
        text, encoding = data.decode(named, errors="replace"), named
    return text, encoding, is_whole(text, encoding)


def _rewritten_table(text: str, new: dict[str, str], fields: dict[str, str]) -> str:
    table = json.loads(text)
    for name, value in new.items():
        table[name][fields[name]] = value
    return json.dumps(table, indent=2, ensure_ascii=text.isascii()) + ("\n" if text.endswith("\n") else "")


def _rewritten_lines(text: str, new: dict[str, str], fields: dict[str, str]) -> str:
    def line_of(line: str) -> str:
        entry: dict[str, Any] = json.loads(line) if line.strip() else {}
        name = entry.get("image_path") or entry.get("file_name")
        if name not in left:
            return line
        field = fields[name] if fields[name] in entry else "text"
        return json.dumps({**entry, field: left.pop(name)}, ensure_ascii=line.isascii()) + "\r" * line.endswith("\r")

    left = dict(new)  # of several lines about a picture, the last one counts, and is edited
    return "\n".join(reversed([line_of(line) for line in reversed(text.split("\n"))]))
