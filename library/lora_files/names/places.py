"""Every weight of a model that a LoRA file can change, known by name and shape alone, without the model.

Tools read a checkpoint's names and shapes from its header; the sites that they make of them are the same that `keys.sites` finds
in a loaded model, and some more that other trainers act on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from library.lora_files.names.keys import Site, dotted_names, file_key, kind_of
from library.lora_files.names.layouts import KEY_LAYOUTS, KeyLayout
from library.lora_files.names.module_names import kohya_path, of_key

Scope = Literal["attention", "conv", "other"]

ATTENTION = re.compile(r"\.attentions\.|encoder\.layers\.\d+\.(self_attn|mlp)\.")
CONVOLUTIONAL = re.compile(r"\.(resnets|downsamplers|upsamplers)\.")


@dataclass(frozen=True)
class Place:
    """The weight of one linear or convolution."""

    host: str
    """"unet", "te1" or "te2"."""
    path: str
    """Path of the module inside its host."""
    name: str
    """What the key is made of, still with dots."""
    key: str
    """Name in LoRA files."""
    block: int | None
    """Index into `block_dims`; None outside of the UNet's blocks."""
    shape: tuple[int, ...]
    """(O, I) or (O, I, h, w)."""

    @property
    def scope(self) -> Scope:
        """Whether every LoRA acts here, those with `conv_dim` alone, or only LyCORIS and the like."""
        return scope_of(self.path)

    def site(self, weight: Tensor | None = None) -> Site:
        """As networks want it, with a module that holds the weight.

        Args:
            weight: None where there is none: then it is nowhere a number, so that what is computed from it shows.
        """
        if weight is None:
            weight = torch.full((), torch.nan).expand(self.shape)
        outputs, inputs, *kernel = self.shape
        module: nn.Linear | nn.Conv2d
        if kernel:
            module = nn.Conv2d(inputs, outputs, (kernel[0], kernel[1]), bias=False, device="meta")
        else:
            module = nn.Linear(inputs, outputs, bias=False, device="meta")
        module.weight = nn.Parameter(weight, requires_grad=False)
        return Site(self.host, self.path, self.key, kind_of(module), self.block, module, self.name)


def places(shapes: Mapping[str, Mapping[str, tuple[int, ...]]], family: str) -> dict[str, Place]:
    """By key, all weights of linears and convolutions.

    Args:
        shapes: host -> name of a parameter inside it -> its shape.

    Raises:
        UserError: the family has no such host.
    """
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    found = {}
    for host, parameters in shapes.items():
        modules = {
            name.removesuffix(".weight"): shape
            for name, shape in parameters.items()
            if name.endswith(".weight") and len(shape) in (2, 4) and "embeddings." not in name
        }
        name_of = dotted_names(host, _tree(modules), family)
        for path, shape in modules.items():
            name = name_of(path)
            key = file_key(host, name, layout)
            block = layout.block_of(name) if host == "unet" and scope_of(path) != "other" else None
            found[key] = Place(host, path, name, key, block, shape)
    return found


def scope_of(path: str) -> Scope:
    """Of a module, by its path inside its host."""
    if ATTENTION.search(path):
        return "attention"
    return "conv" if CONVOLUTIONAL.search(path) else "other"


def block_name(key: str, family: str) -> str:
    """Of a key in a LoRA file: te1, te2, IN00 to OUT11 as in `network_layers`, or unet for what lies outside of its blocks."""
    module = of_key(key)
    if module is None:
        return key
    if module.host != "unet" or scope_of(module.path) == "other":
        return module.host
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    return layout.blocks.label(layout.block_of(kohya_path(module, family))) or module.host


def _tree(paths: Iterable[str]) -> nn.Module:
    """Empty modules with these paths."""
    root = nn.Module()
    for path in paths:
        node = root
        for name in path.split("."):
            child = node._modules.setdefault(name, nn.Module())
            assert child is not None
            node = child
    return root
