"""Ranks that the rules choose, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from library.lora_files.low_rank.resize import RankRule, needed

VALUES = torch.tensor([4.0, 2.0, 1.0, 1.0])  # sum 8, squares 16 + 4 + 1 + 1 = 22


@pytest.mark.parametrize(
    ("method", "parameter", "rank"),
    [
        ("ratio", 3.0, 2),  # above 4/3
        ("ratio", 4.0, 2),  # 1 is not above 4/4
        ("ratio", 4.1, 4),
        ("ratio", 1.5, 1),
        ("cumulative", 0.5, 1),
        ("cumulative", 0.51, 2),
        ("cumulative", 0.8, 3),
        ("cumulative", 1.0, 4),
        ("energy", 0.72, 1),  # 16/22 = 0.727
        ("energy", 0.73, 2),
        ("energy", 0.92, 3),  # 20/22 = 0.909
        ("frobenius", 0.85, 1),  # its root 0.853
        ("frobenius", 0.86, 2),
        ("frobenius", 0.96, 3),  # 0.953
        ("frobenius", 1.0, 4),
    ],
)
def test_smallest_rank_that_satisfies_the_rule(method, parameter, rank):
    assert needed(VALUES, method, parameter) == rank


def test_highest_rank_holds_for_each_kind_of_layer():
    rule = RankRule(linear=3, conv=2, method="frobenius", parameter=1.0)
    assert rule.rank(VALUES, (8, 8)) == 3
    assert rule.rank(VALUES, (8, 8, 1, 1)) == 3
    assert rule.rank(VALUES, (8, 8, 3, 3)) == 2
    assert RankRule(linear=9, conv=9).rank(VALUES, (8, 8)) == 4


def test_a_layer_without_any_change_keeps_the_rank_one():
    for method in ("ratio", "cumulative", "energy", "frobenius"):
        assert RankRule(4, 4, method, 2.0 if method == "ratio" else 0.9).rank(torch.zeros(4), (8, 8)) == 1
