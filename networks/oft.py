"""OFT (Qiu et al. 2023): the outputs of a layer are turned by blocks along the diagonal.

As in sd-scripts, `network_dim` is the number of blocks in every layer, so more blocks are fewer parameters, and `network_alpha`
limits the turn (`constraint`). Files have the names of LyCORIS' diag-oft, which ComfyUI and A1111 read as well; those of
sd-scripts, whose keys begin with `oft_unet_`, are read. Strength is linear, as in A1111, sd-scripts and LyCORIS; ComfyUI squares
it. Letters: K blocks of the size b, K b = O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from library.config.schema.fields import option
from library.config.values import convert
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Size
from networks.arithmetic.rotation import RotationAdapter, RotationOptions, output_count, rotation_size
from networks.options import refuse_dropout


def refuse_enable_conv(value: Any) -> bool:
    """sd-scripts' switch, off."""
    if convert(value, bool):
        raise ValueError(
            "false; set conv_dim instead, the number of blocks in 3x3 convolutions (sd-scripts takes network_dim)"
        )
    return False


@dataclass(frozen=True)
class OFTOptions(RotationOptions):
    """network_args of OFT alone."""

    enable_all_linear: bool = False
    """In the UNet, also act on the layers of transformers outside of attention."""
    enable_text_encoder: bool = False
    """Also act on the text encoders, where sd-scripts' OFT does not."""
    enable_conv: bool = option(False, parse=refuse_enable_conv)
    """sd-scripts' word for acting on convolutional blocks; set conv_dim instead."""


@NETWORKS.register("networks.oft")
class OFT:
    """The OFT of sd-scripts: its targets and sizes."""

    Options = OFTOptions
    faster: frozenset[str] = frozenset()
    draws_random = False
    capturable = True
    alpha_scales = False
    scalable = False

    def __init__(self, options: OFTOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.oft", network_dropout)
        self.options = options

    def acts_on(self, site: Site) -> bool:
        """Attention in the UNet, convolutional blocks where conv_dim asks for them, and what the options add."""
        if site.host != "unet":
            return self.options.enable_text_encoder
        in_transformer = "attentions." in site.path
        return (
            self.options.enable_all_linear
            or not in_transformer
            or any(part in site.path for part in (".attn1.", ".attn2."))
        )

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> RotationAdapter:
        """Blocks of zeros: nothing is random.

        Raises:
            UserError: the outputs cannot be dealt to so many blocks.
        """
        outputs = output_count(site.module)
        if outputs % size.rank:
            raise UserError(
                f"OFT cannot cut the {outputs} outputs of {site.key} into {size.rank} equal blocks: choose a network_dim (in 3x3 "
                "convolutions a conv_dim) that divides them, such as 4, 8 or 16."
            )
        return RotationAdapter(site.module, self._blocks(site, size), turn_blocks, size, self.options)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank is the number of blocks."""
        if "oft_blocks" not in tensors or tensors["oft_blocks"].dim() != 3:
            return None
        return rotation_size(tensors["oft_blocks"].shape[0], tensors)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of the blocks."""
        return {"oft_blocks": self._blocks(site, size)}

    def _blocks(self, site: Site, size: Size) -> tuple[int, int, int]:
        block = output_count(site.module) // size.rank
        return size.rank, block, block


def turn_blocks(turns_Kbb: Tensor, values: Tensor) -> Tensor:
    """Each block's outputs times its turn from the right, which is how every program reads these files."""
    parts = values.unflatten(-1, turns_Kbb.shape[:2])
    return torch.einsum("...kn,knm->...km", parts, turns_Kbb.to(values.dtype)).flatten(-2)
