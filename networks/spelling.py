"""Misspelt arguments of networks that are not ours, which take any name and pass over those that they do not know."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

from library.core.errors import did_you_mean


def unknown_to(module: ModuleType, names: Iterable[str]) -> list[str]:
    """A remark on each name that stands nowhere in the source of the module's package; none where there is no source."""
    words = words_of(module.__name__.partition(".")[0])
    return [
        f"network_args: '{name}' stands nowhere in the source of {module.__name__}, so it will have no effect."
        f"{did_you_mean(name, words)}"
        for name in names
        if words and name not in words
    ]


@cache
def words_of(package: str) -> frozenset[str]:
    """Every word in the source of a package's modules, as far as they are imported."""
    modules = [module for name, module in sys.modules.items() if name == package or name.startswith(f"{package}.")]
    files = [Path(file) for module in modules if (file := getattr(module, "__file__", None)) and file.endswith(".py")]
    return frozenset(word for file in files for word in re.findall(r"\w+", file.read_text("utf-8", errors="replace")))
