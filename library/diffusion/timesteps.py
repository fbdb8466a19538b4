"""Which timestep a sample is trained at."""

from __future__ import annotations

import torch

from library.config.schema.training import NoiseConfig
from library.core.errors import UserError


def trained_timesteps(config: NoiseConfig, num_timesteps: int) -> range:
    """min_timestep .. max_timestep - 1; all of them where the config says nothing.

    Raises:
        UserError: the range is empty or leaves the process.
    """
    low = 0 if config.min_timestep is None else config.min_timestep
    high = num_timesteps if config.max_timestep is None else config.max_timestep
    if not 0 <= low < high <= num_timesteps:
        raise UserError(
            f"min_timestep = {low} and max_timestep = {high} leave no timestep to train: the model has {num_timesteps}, "
            f"so give 0 <= min_timestep < max_timestep <= {num_timesteps}."
        )
    return range(low, high)


def draw_timestep(timesteps: range, generator: torch.Generator) -> int:
    """One timestep, each equally likely (Ho et al. 2020, algorithm 1)."""
    return int(torch.randint(timesteps.start, timesteps.stop, (), generator=generator))
