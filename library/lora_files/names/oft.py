"""The limit of the turns in OFT and BOFT files.

Blocks P stand for Q = P - Pᵀ, and `alpha` for a limit of the norm of all Q of a layer. sd-scripts, LyCORIS and A1111 multiply it
by the layer's outputs, ComfyUI does not. Blocks that keep to the limit, with alpha 0 (no limit), mean the same to everybody.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-5
"""What keeps to a limit but for this share is left as it is, so that limiting it again changes nothing."""


def limited(blocks: Tensor, limit: float) -> Tensor:
    """Blocks (..., b, b), all smaller by one factor where the norm of all Q exceeds the limit; a limit of 0 or less is none."""
    if limit <= 0:
        return blocks
    norm = torch.linalg.vector_norm(blocks - blocks.mT)
    return blocks * torch.where(norm > limit * (1 + SLACK), limit / norm.clamp(min=limit), 1.0)
