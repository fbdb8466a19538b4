"""Draws are a function of (seed, stream, index), and stay what they are."""

from __future__ import annotations

import pytest
import torch

from library.core.randomness import derived_seed, python_random, torch_generator


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
