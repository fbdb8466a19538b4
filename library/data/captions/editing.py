"""Editing many captions: edits in the order in which they are given, each to all captions before the next one begins.

A caption of several lines has alternatives; each line is edited by itself, and one that loses its last tag is an alternative no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from library.data.captions.line_edits import Edit, Origin
from library.data.captions.tag_edits import SortTags
from library.data.captions.tags import count_tags


def edited(text: str, edit: Edit, origin: Origin) -> str:
    """The text of a caption file with each line edited; blank lines and line ends stay. One without words is edited as one empty line."""
    lines = text.splitlines(keepends=True)
    if not text.strip():
        made = edit("", origin)
        return made + (lines[0].lstrip(" \t") if lines else "") if made else text
    if len(lines) == 1:
        return _edited_line(text, edit, origin)
    return "".join(_edited_line(line, edit, origin) for line in lines)


def edit_all(texts: Sequence[str], edits: Sequence[Edit], origins: Sequence[Origin]) -> tuple[list[str], list[int]]:
    """Captions after all edits, and how many of them each edit changed."""
    current, changes = list(texts), []
    for edit in edits:
        if isinstance(edit, SortTags) and edit.by == "frequency" and origins:
            edit = replace(edit, counts=count_tags(current, origins[0].separator))
        changed = [edited(text, edit, origin) for text, origin in zip(current, origins, strict=True)]
        changes.append(sum(before != after for before, after in zip(current, changed, strict=True)))
        current = changed
    return current, changes


def _edited_line(line: str, edit: Edit, origin: Origin) -> str:
    body = line.strip()
    if not body:
        return line
    made = edit(body, origin)
    return line if made == body else made + _line_end(line)


def _line_end(line: str) -> str:
    for end in ("\r\n", *"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"):
        if line.endswith(end):
            return end
    return ""
