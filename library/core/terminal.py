"""Text of others, as it may be shown in a terminal."""

from __future__ import annotations

import re

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and new line, marks that turn the direction of writing, and halves of characters."""


def harmless(text: str) -> str:
    """The text with each character that commands a terminal, or that none can print, written as its escape.

    Names of files, tensors, keys and tags come from strangers; an escape sequence in one could rewrite what stands above it.
    """
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
