"""Tools on training data: captions, pictures to train on, and generated ones."""

from __future__ import annotations

from collections.abc import Sequence

from library.cli.arguments import dispatch

TOOLS = {
    "caption": "write, edit and count tags and captions, with preview and undo",
    "prepare": "copy pictures as they are to be trained: upright, cropped, sized, some held out",
    "generate": "make training pictures and captions of a character with the base model",
}


def main(argv: Sequence[str]) -> int | None:
    """Run one tool; each is a module of `library.cli.dataset_tools`."""
    return dispatch("dojo dataset", __doc__, TOOLS, "library.cli.dataset_tools.", argv)
