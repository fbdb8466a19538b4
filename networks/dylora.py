"""DyLoRA (Valipour et al. 2022, algorithm 1): LoRA that is trained at many ranks at once.

The ranks stand in blocks of `unit`. Each pass of a layer draws one block b: it learns, those below it act as they are, those
above it do not act. So the first ranks hold what matters most, and a LoRA of this kind may be cut to a lower rank afterwards.
As in sd-scripts, the change is made stronger by sqrt(all blocks / acting blocks) meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.side_path import LowRankFiles
from networks.lora import Dropouts, LoRAAdapter
from networks.options import refuse_dropout


@dataclass(frozen=True)
class DyLoRAOptions:
    """network_args of DyLoRA alone."""

    unit: int = option(1, minimum=1)
    """Ranks that learn together. network_dim (and conv_dim) must be a multiple of it."""


@NETWORKS.register("networks.dylora")
class DyLoRA(LowRankFiles):
    """LoRA whose ranks are of use from the first on; its files are LoRA's."""

    Options = DyLoRAOptions
    faster = frozenset({"up"})
    draws_random = True
    capturable = True
    scalable = True

    def __init__(self, options: DyLoRAOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.dylora", network_dropout, "draws the ranks that learn instead")
        self.unit = options.unit

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> DyLoRAAdapter:
        """Down drawn uniformly from ±1/sqrt(fan in), up zero.

        Raises:
            UserError: the rank is not a multiple of `unit`.
        """
        if size.rank % self.unit:
            raise UserError(
                f"network_args: unit = {self.unit} does not divide the rank {size.rank} of {site.key}: network_dim and conv_dim "
                f"must be multiples of unit. Take {size.rank - size.rank % self.unit or self.unit} instead."
            )
        return DyLoRAAdapter(site.module, size, self.unit, generator)


class DyLoRAAdapter(LoRAAdapter):
    """The two matrices of one site. Draws the block, on the device, from torch's default generator there."""

    block_R: Tensor

    def __init__(self, host: nn.Linear | nn.Conv2d, size: Size, unit: int, generator: torch.Generator) -> None:
        super().__init__(host, size, Dropouts(), generator)
        self.blocks = size.rank // unit
        block_R = torch.arange(size.rank, device=self.down.device) // unit
        self.register_buffer("block_R", block_R, persistent=False)

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The host's output plus the side path's, of the drawn blocks in training, of all otherwise."""
        down, up = self._drawn() if self.training else (self.down, self.up)
        return self.path(x, base, down, up, self.size.scale * context.multiplier)

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Both matrices, of which one block gets a gradient; up is zero in the blocks above."""
        block = torch.randint(self.blocks, (), device=self.down.device)
        strength_R = (self.block_R <= block) * (self.blocks / (block + 1)).sqrt()
        by_row, by_column = (-1, *[1] * (self.down.dim() - 1)), (1, -1, *[1] * (self.up.dim() - 2))
        learns_R = self.block_R == block
        down = torch.where(learns_R.view(by_row), self.down, self.down.detach())
        up = torch.where(learns_R.view(by_column), self.up, self.up.detach())
        return down, up * strength_R.view(by_column)
