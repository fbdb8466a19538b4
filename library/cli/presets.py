"""List the presets that come with LoRA Dojo: whom each is for, and how to use it."""

from __future__ import annotations

import argparse
from pathlib import Path

PRESETS = Path(__file__).resolve().parents[2] / "presets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(arguments: argparse.Namespace) -> None:
    """Print each preset's path and the first sentence of its leading comment."""
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
