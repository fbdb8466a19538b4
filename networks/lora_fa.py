"""LoRA-FA (Zhang et al. 2023, section 3): LoRA whose A (down) stays as it was drawn, so that only B (up) learns.

What B's gradient needs is A x, which is rank-sized; x itself, what LoRA keeps of every layer for the backward pass, is not kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Size
from networks.lora import Dropouts, LoRA, LoRAAdapter


@NETWORKS.register("networks.lora_fa")
class LoRAFA(LoRA):
    """LoRA with half the trained values; options and files are LoRA's."""

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> LoRAFAAdapter:
        """Down drawn uniformly from ±1/sqrt(fan in), up zero."""
        return LoRAFAAdapter(site.module, size, self.dropouts, generator)


class LoRAFAAdapter(LoRAAdapter):
    """The two matrices of one site, of which `down` is no parameter."""

    def __init__(self, host: nn.Linear | nn.Conv2d, size: Size, dropouts: Dropouts, generator: torch.Generator) -> None:
        super().__init__(host, size, dropouts, generator)
        frozen = self.down.detach()
        del self.down
        self.register_buffer("down", frozen)

    def scale_delta(self, factor: Tensor) -> None:
        """Up alone: a state holds what learns, and down is drawn again when it is resumed."""
        with torch.no_grad():
            self.up.mul_(factor)
