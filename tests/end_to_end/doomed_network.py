"""A network that fails in the midst of a step, for tests: `network_module = "doomed_network"`."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

from library.config.schema.fields import option
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.lora import LoRA, LoRAAdapter, LoRAOptions

STEPS = 2
"""Steps that go well."""


@dataclass(frozen=True)
class DoomedOptions(LoRAOptions):
    """Whom it strikes."""

    rank: int = option(0)
    """The process that fails."""


@NETWORKS.register("doomed_network")
class DoomedLoRA(LoRA):
    """LoRA until then."""

    Options = DoomedOptions

    def __init__(self, options: DoomedOptions, network_dropout: float = 0.0) -> None:
        super().__init__(options, network_dropout)
        self.options = options

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> LoRAAdapter:
        return DoomedAdapter(self.options, site, size, self, generator)


class DoomedAdapter(LoRAAdapter):
    """Counts its real passes; each step has one."""

    def __init__(self, options: DoomedOptions, site: Site, size: Size, of: LoRA, generator: torch.Generator) -> None:
        super().__init__(site.module, size, of.dropouts, generator)
        self.options = options
        self.passes = 0

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        self.passes += x.device.type != "meta"
        if self.passes > STEPS and self.options.rank == int(os.environ["RANK"]):
            raise ValueError("this network was made to fail")
        return super().forward(x, base, context)
