"""Pictures as tensors. Letters: H W height and width in pixels, h w those of the latents."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from library.data.pictures.images import placed
from library.data.pictures.placement import Placement


def to_pixels(image: Image.Image) -> Tensor:
    """RGB as (3, H, W) in [-1, 1]."""
    pixels_HWC = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels_HWC.permute(2, 0, 1).div(127.5).sub(1.0).contiguous()


def to_mask(mask: Image.Image, placement: Placement, stride: int) -> Tensor:
    """A mask (8 bits) brought along with its picture to the latents' size: (1, h, w) in [0, 1], each the mean of its pixels."""
    pixels = torch.from_numpy(np.array(placed(mask, placement, "area"), dtype=np.float32)).div(255.0)
    return avg_pool2d(pixels[None], stride)
