"""The whole weight of a frozen host, for networks that compute with it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class KeepsPacked(Protocol):
    """A host whose `weight` is packed into fewer bits."""

    def whole_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that it computes with."""
        ...


def whole_weight(host: nn.Linear | nn.Conv2d) -> Tensor:
    """The weight (O, I) or (O, I, kh, kw), fp32, where the host keeps its own; not to be changed in place."""
    if isinstance(host, KeepsPacked):
        return host.whole_weight(torch.float32)
    assert host.weight.is_floating_point() and host.weight.element_size() >= 2, "a packed weight of an unknown kind"
    return host.weight.detach().float()
