"""Which modules a network is put on, and under what names their weights stand in a LoRA file.

The scope is that of sd-scripts: linears and 1x1 convolutions of the UNet's transformers, attention and MLP of the text
encoders; with `conv` also the resnets, downsamplers and upsamplers. The names depend on the family alone, never on how
today's libraries nest their modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from library.core.errors import UserError
from library.lora_files.layouts import KEY_LAYOUTS, KeyLayout

Kind = Literal["linear", "conv1x1", "conv3x3"]

TRANSFORMERS = frozenset({"Transformer2DModel"})
CONVOLUTIONAL = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
ENCODER_PARTS = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})


@dataclass(frozen=True, eq=False)
class Site:
    """One module that a network is put on."""

    host: str
    """"unet", "te1" or "te2"."""
    path: str
    """Path of the module inside its host."""
    key: str
    """Name in LoRA files, such as `lora_unet_mid_block_attentions_0_proj_in`."""
    kind: Kind
    """conv3x3 stands for every kernel larger than 1x1."""
    block: int | None
    """Index into `block_dims`; None in text encoders."""
    module: nn.Linear | nn.Conv2d


def sites(hosts: Mapping[str, nn.Module], family: str, conv: bool) -> list[Site]:
    """Every module that a network acts on, host by host, in the order of their module trees.

    Args:
        hosts: "unet", "te1", "te2".
        family: "sd1", "sd2", "sdxl", or one whose key layout is registered.
        conv: with resnets, downsamplers and upsamplers.

    Raises:
        UserError: the family has no such host.
    """
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    return [site for host, module in hosts.items() for site in _sites_of(host, module, layout, family, conv)]


def _sites_of(host: str, module: nn.Module, layout: KeyLayout, family: str, conv: bool) -> Iterator[Site]:
    if host not in layout.prefixes:
        raise UserError(f"model family '{family}' has no '{host}': its parts are {', '.join(layout.prefixes)}.")
    if host == "unet":
        return _unet_sites(module, layout, TRANSFORMERS | CONVOLUTIONAL if conv else TRANSFORMERS)
    return _encoder_sites(host, module, layout)


def _unet_sites(unet: nn.Module, layout: KeyLayout, parents: frozenset[str]) -> Iterator[Site]:
    name_of = layout.name_unet(unet)
    for path, module in _adaptable(unet, parents):
        name = name_of(path)
        yield Site("unet", path, _key(layout.prefixes["unet"], name), kind_of(module), layout.block_of(name), module)


def _encoder_sites(host: str, encoder: nn.Module, layout: KeyLayout) -> Iterator[Site]:
    for path, module in _adaptable(encoder, ENCODER_PARTS):
        # transformers 5 dropped this level from CLIPTextModel and kept it in CLIPTextModelWithProjection; keys have it.
        name = path if path.startswith("text_model.") else f"text_model.{path}"
        yield Site(host, path, _key(layout.prefixes[host], name), kind_of(module), None, module)


def _adaptable(root: nn.Module, parents: frozenset[str]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Linears and convolutions below modules whose class has one of these names."""
    for parent_path, parent in root.named_modules():
        if type(parent).__name__ in parents:
            for path, module in parent.named_modules(prefix=parent_path):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    yield path, module


def kind_of(module: nn.Linear | nn.Conv2d) -> Kind:
    """How the module is adapted."""
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv1x1" if tuple(module.kernel_size) == (1, 1) else "conv3x3"


def _key(prefix: str, name: str) -> str:
    return f"{prefix}.{name}".replace(".", "_")
