"""What a step does, counted, so that it cannot grow unseen; `benchmarks/counts.py` prints the same."""

from __future__ import annotations

import pytest

from benchmarks.counts import counts_of
from library.kernels.build import library

OPERATORS = {True: {"sd15": 7800, "sdxl": 21800}, False: {"sd15": 8300, "sdxl": 26800}}
"""At most so many are dispatched in a step, views among them: with the kernels for CPUs and without."""


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_step_does_far_less_than_the_reference(family, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = counts_of(family, tmp_path)
    ours, reference = found["ours"], found["reference"]
    assert ours.total < 0.6 * reference.total
    assert ours.total - ours.views < 0.6 * (reference.total - reference.views)
    assert ours.total <= OPERATORS[library() is not None][family]
    assert ours.syncs == 0
    assert ours.saved_bytes < 0.86 * reference.saved_bytes
