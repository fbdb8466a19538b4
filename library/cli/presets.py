"""List the presets that come with LoRA Dojo: whom each is for, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from library.cli.arguments import command_parser

PRESETS = Path(__file__).resolve().parents[2] / "presets"


def main(argv: Sequence[str]) -> None:
    """Print each preset's path and the first sentence of its leading comment."""
    command_parser("presets", __doc__).parse_args(argv)
    for path in sorted(PRESETS.rglob("*.toml")):
        print(f"{path.relative_to(PRESETS.parent).as_posix():36} {first_sentence(path)}")


def first_sentence(path: Path) -> str:
    """The first sentence of the comment that a preset begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# ").strip())
    return " ".join(comment).split(". ")[0].rstrip(".") + "."
