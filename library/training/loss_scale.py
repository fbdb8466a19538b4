"""Loss scaling for fp16 (Micikevicius et al. 2018, section 3.2), without ever reading a value back from the device."""

from __future__ import annotations

import torch
from torch import Tensor

GROWTH_INTERVAL = 2000


class LossScale:
    """A factor of the loss that keeps small gradients above fp16's smallest number.

    Halved when a gradient overflows, and doubled after 2000 steps without an overflow. Switched off it stays 1.

    Args:
        enabled: whether the model computes in fp16.
    """

    def __init__(self, enabled: bool, device: torch.device) -> None:
        self.enabled = enabled
        self.scale = torch.tensor(2.0**16 if enabled else 1.0, device=device)
        self.good_steps = torch.zeros((), device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss * self.scale if self.enabled else loss

    def unscale_(self, gradients: Tensor) -> None:
        """Bring gradients back to their own size, in place."""
        if self.enabled:
            gradients.mul_(1 / self.scale)

    def update(self, overflow: Tensor) -> None:
        """Told after each step whether (1 or 0) its gradients were not finite."""
        if not self.enabled:
            return
        good_steps = torch.where(overflow > 0, 0.0, self.good_steps + 1)
        grows = good_steps >= GROWTH_INTERVAL
        scale = torch.where(overflow > 0, self.scale / 2, torch.where(grows, self.scale * 2, self.scale))
        # In place: a captured backward pass reads the scale where it was when it was captured.
        self.scale.copy_(scale)
        self.good_steps.copy_(torch.where(grows, 0.0, good_steps))

    def hopeless(self, overflow: Tensor) -> Tensor:
        """0-d, 1 where gradients overflow although they are hardly scaled: they are really broken. Ask after `update`."""
        return overflow * (self.scale < 1) if self.enabled else overflow

    def state(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"on": float(self.enabled), "scale": float(self.scale), "good_steps": float(self.good_steps)}

    def load_state(self, state: dict[str, float]) -> None:
        """Continue from a saved state; one of a run without scaling leaves the start value."""
        if not self.enabled or not state["on"]:
            return
        self.scale.fill_(state["scale"])
        self.good_steps.fill_(state["good_steps"])
