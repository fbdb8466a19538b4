from __future__ import annotations

import pytest

from library.config.schema.training import NoiseConfig
from library.core.errors import UserError
from library.core.randomness import torch_generator
from library.diffusion.timesteps import draw_timestep, trained_timesteps


def test_the_whole_process_is_trained_by_default() -> None:
    assert trained_timesteps(NoiseConfig(), 1000) == range(1000)
    assert trained_timesteps(NoiseConfig(min_timestep=20, max_timestep=600), 1000) == range(20, 600)


@pytest.mark.parametrize(("low", "high"), [(500, 500), (600, 500), (0, 1001)])
def test_an_empty_or_impossible_range_is_refused(low: int, high: int) -> None:
    with pytest.raises(UserError, match=f"min_timestep = {low} and max_timestep = {high}"):
        trained_timesteps(NoiseConfig(min_timestep=low, max_timestep=high), 1000)


def test_draws_fill_the_range_evenly() -> None:
    drawn = [draw_timestep(range(10, 14), torch_generator(1, "timestep", sample)) for sample in range(4000)]
    counts = [drawn.count(t) for t in range(10, 14)]
    assert sum(counts) == 4000
    assert all(abs(count - 1000) < 120 for count in counts)  # four standard deviations are 110


def test_a_draw_depends_only_on_its_generator() -> None:
    first, again = (draw_timestep(range(1000), torch_generator(7, "timestep", 3, 1)) for _ in range(2))
    assert first == again
