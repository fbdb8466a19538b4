"""A TOML table whose values are taken one by one; what does not fit becomes a mistake that names its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from library.config.check_places import FORBIDDEN_IN_NAMES
from library.config.schema.output import SamplingConfig
from library.config.values import shown
from library.core.errors import did_you_mean

SAMPLERS: tuple[str, ...] = get_args(get_type_hints(SamplingConfig)["sample_sampler"])

MOST_SEED = 2**32 - 1
"""What other programs take as a seed too."""


@dataclass(frozen=True)
class Table:
    """The content of a sheet, or of a table in it."""

    content: Mapping[str, Any]
    place: str
    """File and key, for messages."""
    mistakes: list[str]
    """Takes what is wrong, so that all is told at once."""

    def mistake(self, key: str, text: str) -> None:
        """Note what is wrong with a key."""
        self.mistakes.append(f"{self.place}: {key} {text}")

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Note the keys that nobody reads."""
        for key in self.content:
            if key not in known:
                self.mistakes.append(
                    f"{self.place}: unknown key '{key}'.{did_you_mean(key, known)} Known: {', '.join(known)}."
                )

    def refuse_in_names(self, key: str, text: str) -> None:
        """Note what no name of a folder may hold."""
        if found := sorted(FORBIDDEN_IN_NAMES & set(text)):
            self.mistake(key, f"holds {' '.join(map(repr, found))}, which no folder's name may.")
        elif text.startswith("."):
            self.mistake(key, "begins with a full stop, which hides a folder.")

    def text(self, key: str, default: str = "") -> str:
        """One line of text; line ends count as spaces."""
        value = self.content.get(key, default)
        if isinstance(value, str):
            return " ".join(value.split())
        self._expected(key, "text")
        return default

    def whole(self, key: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number in a range."""
        value = self.content.get(key, default)
        if value is default or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high):
            return value
        self._expected(key, f"a whole number from {low} to {high}")
        return default

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number in a range."""
        value = self.content.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
            return float(value)
        self._expected(key, f"a number from {low} to {high}")
        return default

    def seeds(self, key: str) -> tuple[int, ...]:
        """A seed, or a list of them."""
        value = self.content.get(key, 0)
        seeds = value if isinstance(value, list) else [value]
        if seeds and all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in seeds):
            return tuple(seeds)
        self._expected(key, f"a whole number from 0 to {MOST_SEED}, or a list of them")
        return (0,)

    def sampler(self, key: str) -> str:
        """The name of a sampler."""
        value = self.content.get(key, "ddim")
        if value in SAMPLERS:
            return str(value)
        self._expected(key, f"one of {', '.join(SAMPLERS)}", did_you_mean(str(value), SAMPLERS))
        return "ddim"

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of texts; None where there is none."""
        value = self.content.get(key)
        if value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            return None if value is None else tuple(value)
        self._expected(key, "a list of texts")
        return None

    def aspect(self, key: str) -> tuple[int, int] | None:
        """Width to height, as "2:3"."""
        value = self.content.get(key)
        if value is None:
            return None
        found = re.fullmatch(r"\s*([1-9]\d?)\s*:\s*([1-9]\d?)\s*", value) if isinstance(value, str) else None
        if found and 1 / 4 <= int(found[1]) / int(found[2]) <= 4:
            return int(found[1]), int(found[2])
        self._expected(key, 'width to height such as "2:3", from "1:4" to "4:1"')
        return None

    def inner(self, key: str) -> Table:
        """The table at a key; an empty one where there is none."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            self._expected(key, f"a table [{key}]")
            value = {}
        return Table(value, f"{self.place}: {key}", self.mistakes)

    def _expected(self, key: str, what: str, hint: str = "") -> None:
        self.mistake(key, f"is {shown(self.content[key])}, but must be {what}.{hint}")
