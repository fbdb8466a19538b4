"""Draws are a function of (seed, stream, index), and stay what they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from library.core.randomness import derived_seed, permutation, python_random, torch_generator


@pytest.mark.parametrize(
    ("draw", "blake2b"),
    [
        ((7, "noise", 3, 1), 0x331B32685F64E8A2),
        ((0, "timestep", 0, 0), 0x180A8F3F94BE0F8A),
        ((42, "shuffle"), 0x8E2ECE94566B5ACA),
    ],
)
def test_seeds_never_change(draw: tuple, blake2b: int) -> None:
    """The hashes are those of `printf 7:noise:3:1 | b2sum -l 64`, and so on. Another value breaks every resumed run."""
    assert derived_seed(*draw) == blake2b >> 1


def test_drawn_numbers_never_change() -> None:
    drawn = torch.randn(4, generator=torch_generator(7, "noise", 3, 1))
    torch.testing.assert_close(drawn, torch.tensor([-0.2369746566, 0.2316011041, 0.4752193689, 0.8001965880]))
    assert python_random(42, "shuffle").sample(range(10), 10) == [7, 1, 9, 6, 0, 5, 4, 8, 3, 2]


def test_the_same_draw_is_the_same_whatever_was_drawn_before() -> None:
    first = torch.randn(5, generator=torch_generator(1, "noise", 0, 0))
    torch.manual_seed(99)
    torch.randn(3, generator=torch_generator(1, "noise", 0, 1))
    assert torch.equal(torch.randn(5, generator=torch_generator(1, "noise", 0, 0)), first)
    assert python_random(1, "crop", 4).random() == python_random(1, "crop", 4).random()


def test_drawing_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    torch.randn(3, generator=torch_generator(1, "noise"))
    assert torch.equal(torch.get_rng_state(), before)


def test_seeds_streams_and_indices_all_make_a_difference() -> None:
    draws = [
        (1, "noise", 0, 0),
        (2, "noise", 0, 0),
        (1, "latents", 0, 0),
        (1, "noise", 1, 0),
        (1, "noise", 0, 1),
        (1, "noise", 0),
        (1, "noise", 11),
        (1, "noise", 1, 1),
        (11, "noise", 1),
        (-1, "noise", 1),
    ]
    seeds = {derived_seed(*draw) for draw in draws}
    assert len(seeds) == len(draws)
    assert all(0 <= seed < 2**63 for seed in seeds), "torch takes no larger ones"
    assert len({torch.rand((), generator=torch_generator(*draw)).item() for draw in draws}) == len(draws)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1001])
def test_a_shuffle_holds_every_number_once_and_any_place_alone_is_as_in_the_whole(size: int) -> None:
    shuffle = permutation(size, 7, "entries", 3)
    whole = shuffle[np.arange(size)].tolist()
    assert sorted(whole) == list(range(size))
    assert [int(shuffle[np.array([place])][0]) for place in range(0, size, 5)] == whole[::5]


def test_a_shuffle_is_the_swap_or_not_of_its_authors() -> None:
    """Card by card, in plain numbers."""
    size = 10
    rng = python_random(3, "entries", 1)
    pivots = [rng.randrange(size) for _ in range(6 * 4)]
    keys = [rng.getrandbits(64) for _ in range(6 * 4)]
    whole = 2**64 - 1

    def bit(number: int, key: int) -> int:
        number ^= key
        number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & whole
        number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & whole
        return (number ^ (number >> 31)) & 1

    def place(card: int) -> int:
        for pivot, key in zip(pivots, keys):
            partner = (pivot - card) % size
            card = partner if bit(max(card, partner), key) else card
        return card

    assert permutation(size, 3, "entries", 1)[np.arange(size)].tolist() == [place(card) for card in range(size)]


def test_every_order_is_as_likely_as_any_other() -> None:
    counts = Counter(tuple(permutation(4, seed, "entries")[np.arange(4)].tolist()) for seed in range(6000))
    assert len(counts) == 24
    assert sum((count - 250) ** 2 / 250 for count in counts.values()) < 50  # chi squared, 23 degrees: one in a thousand


def test_a_large_shuffle_keeps_no_trace_of_the_order() -> None:
    numbers = permutation(100_003, 1, "entries")[np.arange(100_003)]
    assert abs(np.corrcoef(numbers, np.arange(len(numbers)))[0, 1]) < 0.015
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.015
