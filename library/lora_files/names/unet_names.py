"""The two names of every UNet module: diffusers' and the original one of the Stable Diffusion repositories.

    down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q  <->  input_blocks.4.1.transformer_blocks.0.attn1.to_q

The original numbers the blocks of each half through: `input_blocks.0` is the first convolution, then every level has
`layers` blocks of a resnet (`.0`) and maybe a transformer (`.1`), and one block for its downsampler. In
`output_blocks` each level has `layers + 1` blocks, and the upsampler is the last child of the level's last block.
Paths of modules and of parameters (`....weight`) are both understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class UNetLayout:
    """What the numbering depends on."""

    attention_in_up: tuple[bool, ...]
    """For each of diffusers' `up_blocks`, coarsest first: does it hold transformers?"""
    layers: int = 2
    """Resnets in each of the `down_blocks`."""


SD = UNetLayout(attention_in_up=(False, True, True, True))
SDXL = UNetLayout(attention_in_up=(True, True, False))

_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP_BACK = {original: name for name, original in _TOP.items()}
_RESNET_BACK = {original: name for name, original in _RESNET.items()}
_MIDDLE = {("resnets", "0"): "0", ("attentions", "0"): "1", ("resnets", "1"): "2"}
_MIDDLE_BACK = {original: name for name, original in _MIDDLE.items()}


def layout_of(diffusers_names: Iterable[str], layers: int = 2) -> UNetLayout:
    """The layout of a UNet whose modules or parameters have these names."""
    names = [name.split(".") for name in diffusers_names if name.startswith("up_blocks.")]
    levels = 1 + max((int(path[1]) for path in names if len(path) > 1), default=-1)
    with_attention = {int(path[1]) for path in names if "attentions" in path[2:3]}
    return UNetLayout(tuple(level in with_attention for level in range(levels)), layers)


def original_unet_module(name: str, layout: UNetLayout) -> str:
    """The original name of a module or parameter that diffusers calls `name`.

    Raises:
        KeyError: not a part of a UNet2DConditionModel of the SD families.
    """
    path = name.split(".")
    match path:
        case ["down_blocks", level, kind, index, *rest]:
            return _join(*_original_down(int(level), kind, int(index), rest, layout))
        case ["mid_block", kind, index, *rest]:
            return _join("middle_block", _MIDDLE[kind, index], _inside(kind, rest))
        case ["up_blocks", level, kind, index, *rest]:
            return _join(*_original_up(int(level), kind, int(index), rest, layout))
    return _replace_head(path, _TOP)


def diffusers_unet_module(original: str, layers: int = 2) -> str:
    """The inverse of `original_unet_module`.

    Raises:
        KeyError: not a part of an original UNet of the SD families.
    """
    path = original.split(".")
    match path:
        case ["input_blocks", number, child, *rest] if number != "0":
            return _join(*_diffusers_down(int(number) - 1, child, rest, layers))
        case ["middle_block", child, *rest]:
            kind, index = _MIDDLE_BACK[child]
            return _join("mid_block", kind, index, _inside_back(kind, rest))
        case ["output_blocks", number, child, *rest]:
            return _join(*_diffusers_up(int(number), child, rest, layers))
    return _replace_head(path, _TOP_BACK)


def _original_down(level: int, kind: str, index: int, rest: list[str], layout: UNetLayout) -> tuple[object, ...]:
    first = 1 + level * (layout.layers + 1)
    if kind == "downsamplers":
        return "input_blocks", first + layout.layers, 0, _renamed(rest, "conv", "op")
    return "input_blocks", first + index, _child(kind), _inside(kind, rest)


def _original_up(level: int, kind: str, index: int, rest: list[str], layout: UNetLayout) -> tuple[object, ...]:
    first = level * (layout.layers + 1)
    if kind == "upsamplers":
        return "output_blocks", first + layout.layers, 2 if layout.attention_in_up[level] else 1, ".".join(rest)
    return "output_blocks", first + index, _child(kind), _inside(kind, rest)


def _diffusers_down(block: int, child: str, rest: list[str], layers: int) -> tuple[object, ...]:
    level, index = divmod(block, layers + 1)
    if index == layers:
        return "down_blocks", level, "downsamplers", 0, _renamed(rest, "op", "conv")
    kind = _kind(child)
    return "down_blocks", level, kind, index, _inside_back(kind, rest)


def _diffusers_up(block: int, child: str, rest: list[str], layers: int) -> tuple[object, ...]:
    level, index = divmod(block, layers + 1)
    if child == "2" or rest[:1] == ["conv"]:
        return "up_blocks", level, "upsamplers", 0, ".".join(rest)
    kind = _kind(child)
    return "up_blocks", level, kind, index, _inside_back(kind, rest)


def _child(kind: str) -> int:
    return {"resnets": 0, "attentions": 1}[kind]


def _kind(child: str) -> str:
    return {"0": "resnets", "1": "attentions"}[child]


def _inside(kind: str, rest: list[str]) -> str:
    """The path inside a resnet or a transformer; transformers have the same names in both worlds."""
    return _replace_head(rest, _RESNET) if kind == "resnets" and rest else ".".join(rest)


def _inside_back(kind: str, rest: list[str]) -> str:
    return _replace_head(rest, _RESNET_BACK) if kind == "resnets" and rest else ".".join(rest)


def _replace_head(path: list[str], names: dict[str, str]) -> str:
    """Replace the longest head of the path that stands in `names`."""
    for length in (3, 2, 1):
        head = ".".join(path[:length])
        if head in names:
            return _join(names[head], ".".join(path[length:]))
    raise KeyError(".".join(path))


def _renamed(rest: list[str], old: str, new: str) -> str:
    return ".".join([new if part == old else part for part in rest])


def _join(*parts: object) -> str:
    return ".".join(str(part) for part in parts if part != "")
