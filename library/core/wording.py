"""Numbers of things in words."""

from __future__ import annotations

from collections.abc import Sequence


def how_many(number: int, one: str, several: str = "") -> str:
    """1 picture, 3 pictures; `several` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def first_of(names: Sequence[str], most: int) -> str:
    """The first so many names, with commas, and how many more there are."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
