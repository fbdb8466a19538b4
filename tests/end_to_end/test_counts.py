"""What a step does, counted, so that it cannot grow unseen; `benchmarks/counts.py` prints the same."""

from __future__ import annotations

import pytest

from benchmarks.counts import counts_of

OPERATORS = {"sd15": 8500, "sdxl": 25200}
"""At most so many are dispatched in a step, views among them."""


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_step_does_far_less_than_the_reference(family, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = counts_of(family, tmp_path)
    ours, reference = found["ours"], found["reference"]
    assert ours.total < 0.6 * reference.total
    assert ours.total - ours.views < 0.6 * (reference.total - reference.views)
    assert ours.total <= OPERATORS[family]
    assert ours.syncs == 0
    assert ours.saved_bytes < 0.95 * reference.saved_bytes
