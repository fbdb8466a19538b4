"""T-LoRA (Soboleva et al. 2025, section 4.1): LoRA in the UNet whose rank falls with the noise.

At timestep t of T the first r(t) = floor(((T - t) / T)^a (r - r_min)) + r_min of the r ranks act: all of them at t = 0, r_min at
t = T. Training on few pictures overfits where there is most noise; there it gets the least to overfit with. Text encoders know
no timestep and always act in full.

The files are LoRA's. Other programs let every rank act at every timestep, which is more than was trained; our own previews,
`dojo sample` and the like take the ranks by timestep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.side_path import LowRankFiles
from networks.lora import Dropouts, LoRAAdapter
from networks.options import refuse_dropout

TIMESTEPS = 1000
"""T of every model family here."""


def parse_min_rank(value: Any) -> float:
    """0.5 (half of each layer's rank), or a whole number of ranks."""
    try:
        rank = float(value)
        if isinstance(value, bool) or not 0 < rank < math.inf or (rank > 1 and not rank.is_integer()):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError("a whole number of ranks, or a share of the rank between 0 and 1") from None
    return rank


@dataclass(frozen=True)
class TLoRAOptions:
    """network_args of T-LoRA alone."""

    min_rank: float = option(0.5, parse=parse_min_rank)
    """Ranks that act at the noisiest timestep: a whole number (at most the rank), or below 1 the share of each layer's rank."""
    alpha_rank_scale: float = option(1.0, minimum=0.01, maximum=100)
    """The exponent a: above 1 ranks are lost early, below 1 late, as noise is added; 1 is linear."""
    orthogonal: bool = False
    """The ranks start in directions at right angles to one another, so that no rank can stand in for one that is switched off."""


@NETWORKS.register("networks.t_lora")
class TLoRA(LowRankFiles):
    """LoRA with fewer ranks where there is more noise."""

    Options = TLoRAOptions
    faster = frozenset({"up"})
    draws_random = False
    capturable = True
    scalable = True

    def __init__(self, options: TLoRAOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.t_lora", network_dropout, "switches ranks off by the timestep instead")
        self.options = options

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> TLoRAAdapter:
        """Down drawn as LoRA's, or with rows at right angles that are as long; up zero."""
        lowest = self.options.min_rank
        lowest_rank = math.ceil(lowest * size.rank) if lowest < 1 else min(int(lowest), size.rank)
        last_timesteps = [
            last_timestep(index, size.rank, lowest_rank, self.options.alpha_rank_scale) for index in range(size.rank)
        ]
        adapter = TLoRAAdapter(site.module, size, last_timesteps if site.host == "unet" else None, generator)
        if self.options.orthogonal:
            rows = torch.empty(adapter.down.flatten(1).shape)
            nn.init.orthogonal_(rows, gain=1 / math.sqrt(3), generator=generator)  # the length of LoRA's rows
            adapter.down.data.copy_(rows.view_as(adapter.down))
        return adapter


class TLoRAAdapter(LoRAAdapter):
    """The two matrices of one site.

    Args:
        last_timesteps: of each rank the timestep from which on it does not act; None: all act always.
    """

    last_timestep_R: Tensor | None

    def __init__(
        self,
        host: nn.Linear | nn.Conv2d,
        size: Size,
        last_timesteps: list[float] | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__(host, size, Dropouts(), generator)
        last_R = None if last_timesteps is None else torch.tensor(last_timesteps, device=self.down.device)
        self.register_buffer("last_timestep_R", last_R, persistent=False)

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output plus the side path's, for each sample with the ranks of its timestep."""
        scale, last_R, t_B = self.size.scale * context.multiplier, self.last_timestep_R, context.timesteps_B
        if last_R is None or t_B is None:
            return self.path(x, base, self.down, self.up, scale)
        acts_BR = t_B[:, None] <= last_R

        def act(inner: Tensor) -> Tensor:
            """Zero where a rank does not act; (B, R), (B, T, R) or (B, R, h, w)."""
            middle = [1] * (inner.dim() - 2)
            by_sample = (-1, inner.shape[1], 1, 1) if inner.dim() == 4 else (-1, *middle, inner.shape[-1])
            return inner * acts_BR.view(by_sample)

        return self.path(x, base, self.down, self.up, scale, act)


def last_timestep(index: int, rank: int, lowest_rank: int, exponent: float) -> float:
    """The greatest timestep at which the rank of this index (from 0) acts.

    From r(t) > index: ((T - t) / T)^a (r - r_min) >= index + 1 - r_min, solved for t.
    """
    if index < lowest_rank:
        return float(TIMESTEPS)
    share = (index + 1 - lowest_rank) / (rank - lowest_rank)
    rounding = 1e-3  # timesteps are whole numbers, or far coarser than this
    return TIMESTEPS * (1 - share ** (1 / exponent)) + rounding
