"""BOFT (Liu et al. 2024): the outputs of a layer are turned in several stages, each by small blocks of other outputs.

The stages are arranged as a butterfly, as in the fast Fourier transform, so that every output can reach every other with far
fewer parameters than OFT's large blocks. `network_dim` is the largest size of a block; the size that is taken is even, and the
number of blocks a power of two, as in LyCORIS, whose names ComfyUI and A1111 read. Strength is linear, as in A1111; LyCORIS and
ComfyUI bend it between 0 and 1. Letters: M stages of D blocks of the size b, D b = O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Size
from networks.arithmetic.rotation import RotationAdapter, RotationOptions, output_count, rotation_size
from networks.options import refuse_dropout


@NETWORKS.register("networks.boft")
class BOFT:
    """The BOFT of LyCORIS."""

    Options = RotationOptions
    faster: frozenset[str] = frozenset()
    draws_random = False
    capturable = True
    alpha_scales = False
    scalable = False

    def __init__(self, options: RotationOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.boft", network_dropout)
        self.options = options

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> RotationAdapter:
        """Blocks of zeros: nothing is random.

        Raises:
            UserError: the outputs have no blocks as small as that.
        """
        outputs = output_count(site.module)
        blocks = butterfly_shape(outputs, size.rank)
        if blocks is None:
            if outputs % 2:
                raise UserError(f"BOFT needs an even number of outputs, and {site.key} has {outputs}.")
            smallest = 2 * (outputs // (outputs & -outputs))  # twice what is odd of it
            raise UserError(
                f"BOFT needs blocks of at least {smallest} for the {outputs} outputs of {site.key}, and was asked for at most "
                f"{size.rank}: set network_dim (in 3x3 convolutions conv_dim) to {smallest} or more."
            )
        return RotationAdapter(site.module, blocks, turn_butterfly, size, self.options)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank is the size of a block."""
        if "oft_blocks" not in tensors or tensors["oft_blocks"].dim() != 4:
            return None
        return rotation_size(tensors["oft_blocks"].shape[2], tensors)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of the blocks."""
        blocks = butterfly_shape(output_count(site.module), size.rank)
        return {} if blocks is None else {"oft_blocks": blocks}


def butterfly_shape(outputs: int, largest: int) -> tuple[int, int, int, int] | None:
    """(M, D, b, b) with the largest even b up to `largest` for which D is a power of two; None: there is none."""
    count = 1
    while outputs % (2 * count) == 0:
        block = outputs // count
        if block <= largest:
            return count.bit_length(), count, block, block
        count *= 2
    return None


def turn_butterfly(turns_MDbb: Tensor, values: Tensor) -> Tensor:
    """The stages one after the other, computed again in the backward pass: what they keep is M times as large as the values."""
    turned: Tensor = checkpoint(_turned, turns_MDbb, values, use_reentrant=False, preserve_rng_state=False)
    return turned


def _turned(turns_MDbb: Tensor, values: Tensor) -> Tensor:
    """Where there are more values than outputs, the stages are first multiplied into one matrix."""
    outputs = values.shape[-1]
    if values.numel() <= outputs**2:
        return _through_stages(turns_MDbb.to(values.dtype), values)
    identity = torch.eye(outputs, device=values.device, dtype=turns_MDbb.dtype)
    return values @ _through_stages(turns_MDbb, identity).to(values.dtype)


def _through_stages(turns_MDbb: Tensor, values: Tensor) -> Tensor:
    """Stage i turns blocks of outputs that lie 2^i · b / 2 apart."""
    half = turns_MDbb.shape[-1] // 2
    change = torch.zeros_like(values)
    for stage, turns_Dbb in enumerate(turns_MDbb):
        reach = 2**stage * half
        shuffled = (values + change).unflatten(-1, (-1, 2, reach)).mT.flatten(-3)
        turned = torch.einsum("dij,...dj->...di", turns_Dbb, shuffled.unflatten(-1, turns_Dbb.shape[:2])).flatten(-2)
        change = change + turned.unflatten(-1, (-1, reach, 2)).mT.flatten(-3)
    return change
