"""How the families name their modules in LoRA files.

The names are those of sd-scripts, which every other program reads. A family of your own registers its layout:
`KEY_LAYOUTS.register("myfamily")(KeyLayout(...))`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from library.core.registry import Registry
from library.lora_files.names.unet_names import layout_of, original_unet_module

KEY_LAYOUTS = Registry(
    "layout of LoRA keys",
    {
        "sd1": "library.lora_files.names.layouts:SD_KEYS",
        "sd2": "library.lora_files.names.layouts:SD_KEYS",
        "sdxl": "library.lora_files.names.layouts:SDXL_KEYS",
    },
    "lora_dojo.key_layouts",
)


@dataclass(frozen=True)
class BlockCounts:
    """Blocks of the UNet as `block_dims` and `down_lr_weight` count them."""

    down: int
    mid: int
    up: int
    edges: int
    """Blocks before `down` and after `up` that hold no LoRA but have a place in `block_dims`."""

    @property
    def total(self) -> int:
        """Values in `block_dims`."""
        return self.edges + self.down + self.mid + self.up + self.edges

    def label(self, index: int) -> str:
        """The name that extensions for merging models give to a block: IN00 and on, M00, OUT00 and on; '' for the edges."""
        index -= self.edges
        if 0 <= index < self.down:
            return f"IN{index:02}"
        index -= self.down
        if 0 <= index < self.mid:
            return "M00"
        index -= self.mid
        return f"OUT{index:02}" if 0 <= index < self.up else ""


@dataclass(frozen=True)
class KeyLayout:
    """The names of one family."""

    prefixes: Mapping[str, str]
    """Host -> what its keys begin with: {"unet": "lora_unet", "te1": "lora_te"}."""
    name_unet: Callable[[nn.Module], Callable[[str], str]]
    """For a UNet, the function from a module's path to its name in the file, still with dots."""
    block_of: Callable[[str], int]
    """Index into `block_dims` of such a name."""
    blocks: BlockCounts


def _diffusers_names(unet: nn.Module) -> Callable[[str], str]:
    return lambda path: path


def _original_names(unet: nn.Module) -> Callable[[str], str]:
    paths = [path for path, _ in unet.named_modules()]
    resnets = {path for path in paths if re.fullmatch(r"down_blocks\.0\.resnets\.\d+", path)}
    layout = layout_of(paths, layers=len(resnets))
    return lambda path: original_unet_module(path, layout)


def sd_block(name: str) -> int:
    """0 to 24: 1-11 down (three a level), 12 middle, 13-24 up. Samplers count with the last block of their level."""
    if name.startswith("mid_block."):
        return 12
    side, level, kind, index = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)", name).groups()  # type: ignore[union-attr]
    within = int(index) if kind in ("resnets", "attentions") else 2
    return (1 if side == "down" else 13) + 3 * int(level) + within


def sdxl_block(name: str) -> int:
    """0 to 22: 1-9 input_blocks, 10-12 middle_block, 13-21 output_blocks."""
    part, index = name.split(".")[:2]
    return {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}[part] + int(index)


SD_KEYS = KeyLayout(
    prefixes={"unet": "lora_unet", "te1": "lora_te"},
    name_unet=_diffusers_names,
    block_of=sd_block,
    blocks=BlockCounts(down=12, mid=1, up=12, edges=0),
)
SDXL_KEYS = KeyLayout(
    prefixes={"unet": "lora_unet", "te1": "lora_te1", "te2": "lora_te2"},
    name_unet=_original_names,
    block_of=sdxl_block,
    blocks=BlockCounts(down=9, mid=3, up=9, edges=1),
)
