"""The trigger word in what a LoRA file says of itself.

Only words are changed. The weights still answer to the tokens that they were trained with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from library.core.documents import DocumentError, parse_json

TEXTS = ("modelspec.trigger_phrase", "modelspec.usage_hint", "modelspec.tags")
"""Entries that name the trigger in words."""

CARD_TEXT = "activation text"
"""Where A1111's card has it."""


def renamed_metadata(metadata: Mapping[str, str], old: str, new: str) -> dict[str, str]:
    """The metadata with the trigger word `old` called `new`, in `ss_tag_frequency` and the entries of `TEXTS`."""
    changed = {name: renamed_text(metadata[name], old, new) for name in TEXTS if name in metadata}
    folders = _table(metadata.get("ss_tag_frequency", ""))
    if folders and renamed_frequencies(folders, old, new) != folders:
        changed["ss_tag_frequency"] = json.dumps(renamed_frequencies(folders, old, new))
    return {**metadata, **changed}


def renamed_frequencies(folders: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """`ss_tag_frequency` with the word renamed in each tag and in the folders' names; counts of tags that become one add up."""
    result: dict[str, Any] = {}
    for folder, tags in folders.items():
        if isinstance(tags, dict):
            counted: dict[str, Any] = {}
            for tag, count in tags.items():
                name = renamed_text(tag, old, new)
                adds = isinstance(count, int) and isinstance(counted.get(name), int)
                counted[name] = counted[name] + count if adds else count
            tags = counted
        result[renamed_text(folder, old, new)] = tags
    return result


def renamed_text(text: str, old: str, new: str) -> str:
    """The text with the word `old` replaced where it stands as a word of its own; `_` before it, as in `10_old`, parts words."""
    return re.sub(rf"(?<![^\W_]){re.escape(old)}(?![^\W_])", lambda _: new, text)


def renamed_card(card: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    """A1111's card with the word renamed in its activation text."""
    text = card.get(CARD_TEXT)
    return {**card, **({CARD_TEXT: renamed_text(text, old, new)} if isinstance(text, str) else {})}


def _table(text: str) -> dict[str, Any] | None:
    try:
        found = parse_json(text)
    except DocumentError:
        return None
    return found if isinstance(found, dict) else None
