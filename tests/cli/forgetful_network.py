"""A network whose state does not hold everything that its passes depend on, for tests: `network_module = "forgetful_network"`."""

from __future__ import annotations

import torch
from torch import Tensor

from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.lora import LoRA, LoRAAdapter


@NETWORKS.register("forgetful_network")
class ForgetfulLoRA(LoRA):
    """LoRA that grows stronger with every pass, and forgets that when it is resumed."""

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> LoRAAdapter:
        return ForgetfulAdapter(site.module, size, self.dropouts, generator)


class ForgetfulAdapter(LoRAAdapter):
    """Counts its real passes."""

    passes = 0

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        self.passes += x.device.type != "meta"
        return super().forward(x, base, context) * (1 + 0.01 * self.passes)
