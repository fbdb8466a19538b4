"""What a terminal may be sent: colours, and text of others."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and new line, marks that turn the direction of writing, and halves of characters."""


def has_colours(stream: TextIO) -> bool:
    """Whether what is printed there may be coloured: on a terminal that can, where NO_COLOR (no-color.org) is not set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    if sys.platform == "win32":
        os.system("")  # switches the console's escape sequences on
    return True


def harmless(text: str) -> str:
    """The text with each character that commands a terminal, or that none can print, written as its escape.

    Names of files, tensors, keys and tags come from strangers; an escape sequence in one could rewrite what stands above it.
    """
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
