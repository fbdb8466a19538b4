"""Numbers that a device computes, asked for without stopping it.

`.item()` on a GPU waits for everything that was given to the GPU so far. Here the numbers are copied to page-locked memory in
their turn, an event marks when the copy is done, and whoever wants them later waits for that event alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Readback:
    """Named numbers on their way from the device, in one copy.

    Args:
        numbers: 0-d tensors on one device, as they are now; plain numbers are passed on.
    """

    def __init__(self, numbers: Mapping[str, Tensor | float]) -> None:
        self._known = {name: float(value) for name, value in numbers.items() if not isinstance(value, Tensor)}
        tensors = {name: value.detach().float() for name, value in numbers.items() if isinstance(value, Tensor)}
        self._names = list(tensors)
        self._event: torch.cuda.Event | None = None
        self._numbers = torch.stack(list(tensors.values())) if tensors else torch.empty(0)
        if self._numbers.device.type == "cuda":
            on_host = torch.empty(self._numbers.shape, pin_memory=True)
            self._numbers = on_host.copy_(self._numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def values(self) -> dict[str, float]:
        """The numbers. Waits until the device has computed them, and for nothing that it was given after them."""
        if self._event is not None:
            self._event.synchronize()
        return {**self._known, **dict(zip(self._names, self._numbers.tolist()))}
