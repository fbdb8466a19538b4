"""Make a model with random weights, for tests and benchmarks: full-size or tiny, as a folder or a single file."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> None:
    """As `python -m library.models.random_weights`."""
    from library.models import random_weights

    random_weights.main(argv, "dojo random-model")
