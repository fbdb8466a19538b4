"""Rank and alpha of every site: `network_dim`, `conv_dim`, values by block of the UNet, and changes of single layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from library.config.schema.fields import option
from library.core.errors import UserError
from library.lora_files.names.keys import Site
from library.lora_files.names.layouts import BlockCounts
from networks.algorithm import Size
from networks.by_layer.layers import Change

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class SizeOptions:
    """network_args that say where the network acts and how large it is there."""

    conv_dim: int | None = option(None, minimum=1)
    """Rank in 3x3 convolutions. Set, the network also acts on resnets, downsamplers and upsamplers."""
    conv_alpha: float | None = option(None, minimum=0)
    """Alpha in 3x3 convolutions; 0 means the rank. Unset: 1."""
    block_dims: list[int] | None = option(None, minimum=0)
    """Rank by block of the UNet, 25 values (SDXL: 23); 0 leaves a block out."""
    block_alphas: list[float] | None = option(None, minimum=0)
    """Alpha by block of the UNet, as many values."""
    conv_block_dims: list[int] | None = option(None, minimum=0)
    """Rank in 3x3 convolutions by block of the UNet, as many values."""
    conv_block_alphas: list[float] | None = option(None, minimum=0)
    """Alpha in 3x3 convolutions by block of the UNet, as many values."""
    rs_lora: bool = option(False, aliases=("use_rslora",))
    """Rank-stabilised scaling (Kalajdzievski 2023): alpha / sqrt(rank) instead of alpha / rank, so that a high rank learns as
    quickly as a low one. Files hold alpha · sqrt(rank), with which every program comes to the same scale."""

    @property
    def conv(self) -> bool:
        """Whether the network acts on convolutional blocks."""
        return self.conv_dim is not None or self.conv_block_dims is not None


SizeOf = Callable[[Site], Size | None]
"""The size of a site's adapter, None where there is none."""


def sizes_from_options(
    network_dim: int,
    network_alpha: float,
    options: SizeOptions,
    blocks: BlockCounts,
    changes: Mapping[str, Change],
) -> SizeOf:
    """Sizes by sd-scripts' rules: 3x3 convolutions from the conv options, all else from network_dim and the blocks.

    Args:
        changes: of single layers, by their keys, laid over that.

    Raises:
        UserError: lists by block of the wrong length.
    """
    _check(options, blocks)

    def size_of(site: Site) -> Size | None:
        if site.kind == "conv3x3":
            rank = _at(options.conv_block_dims, site.block, options.conv_dim or 0)
            alpha = _at(
                options.conv_block_alphas, site.block, 1.0 if options.conv_alpha is None else options.conv_alpha
            )
        else:
            rank = _at(options.block_dims, site.block, network_dim)
            alpha = _at(options.block_alphas, site.block, network_alpha)
        change = changes.get(site.key, Change())
        rank = rank if change.dim is None else change.dim
        alpha = alpha if change.alpha is None else change.alpha
        return Size(rank, (alpha or rank) * (rank**0.5 if options.rs_lora else 1)) if rank else None

    return size_of


def warn_of_conv_alpha(options: SizeOptions, acts_on_conv: bool) -> None:
    """Tell of an alpha for convolutions where none gets an adapter."""
    if not acts_on_conv and (options.conv_alpha is not None or options.conv_block_alphas is not None):
        log.warning("network_args: the alpha for convolutions has no effect, because conv_dim is not set")


def _at(by_block: Sequence[Any] | None, block: int | None, otherwise: Any) -> Any:
    return otherwise if by_block is None or block is None else by_block[block]


def _check(options: SizeOptions, blocks: BlockCounts) -> None:
    for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
        values = getattr(options, name)
        if values is not None and len(values) != blocks.total:
            raise UserError(
                f"network_args: {name} has {len(values)} values, but this model family has {blocks.total} blocks. "
                f"Give {blocks.total} values; 0 leaves a block out."
            )
