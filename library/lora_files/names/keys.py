"""Which modules a network is put on, and under what names their weights stand in a LoRA file.

The scope is that of sd-scripts: linears and 1x1 convolutions of the UNet's transformers, attention and MLP of the text
encoders; with `conv` also the resnets, downsamplers and upsamplers. The names depend on the family alone, never on how
today's libraries nest their modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from library.core.errors import UserError
from library.lora_files.names.layouts import KEY_LAYOUTS, KeyLayout

Kind = Literal["linear", "conv1x1", "conv3x3"]

TRANSFORMERS = frozenset({"Transformer2DModel"})
CONVOLUTIONAL = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})
ENCODER_PARTS = frozenset({"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"})
ENDS = ("conv_in", "conv_out", "time_embedding", "add_embedding")
"""Modules of a UNet outside of its blocks."""


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
    """Index into `block_dims`; None in text encoders and at the ends of a UNet."""
    module: nn.Linear | nn.Conv2d
    name: str = ""
    """What the key is made of, still with dots: the path in today's or, for SDXL's UNet, in the original module tree."""


def sites(hosts: Mapping[str, nn.Module], family: str, conv: bool, ends: bool = False) -> list[Site]:
    """Every module that a network acts on, host by host, in the order of their module trees.

    Args:
        hosts: "unet", "te1", "te2".
        family: "sd1", "sd2", "sdxl", or one whose key layout is registered.
        conv: with resnets, downsamplers and upsamplers.
        ends: with the UNet's first and last convolution and its embeddings, which files of LyCORIS may hold.

    Raises:
        UserError: the family is unknown, or has no such host.
    """
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    unet_parents = TRANSFORMERS | CONVOLUTIONAL if conv else TRANSFORMERS
    found = []
    for host, root in hosts.items():
        name_of = dotted_names(host, root, family)
        modules = [*_adaptable(root, unet_parents if host == "unet" else ENCODER_PARTS)]
        if ends and host == "unet":
            modules += _at_the_ends(root)
        for path, module in modules:
            name = name_of(path)
            block = layout.block_of(name) if host == "unet" and not _is_end(path) else None
            found.append(Site(host, path, file_key(host, name, layout), kind_of(module), block, module, name))
    return found


def dotted_names(host: str, root: nn.Module, family: str) -> Callable[[str], str]:
    """For a host, the function from a module's path to the name that its key is made of, still with dots.

    Raises:
        UserError: the family has no such host.
    """
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    if host not in layout.prefixes:
        raise UserError(f"model family '{family}' has no '{host}': its parts are {', '.join(layout.prefixes)}.")
    return layout.name_unet(root) if host == "unet" else _encoder_name


def file_key(host: str, name: str, layout: KeyLayout) -> str:
    """The key of a dotted name: prefix and name with underscores."""
    return f"{layout.prefixes[host]}.{name}".replace(".", "_")


def kind_of(module: nn.Linear | nn.Conv2d) -> Kind:
    """How the module is adapted."""
    if isinstance(module, nn.Linear):
        return "linear"
    return "conv1x1" if tuple(module.kernel_size) == (1, 1) else "conv3x3"


def _encoder_name(path: str) -> str:
    # transformers 5 dropped this level from CLIPTextModel and kept it in CLIPTextModelWithProjection; keys have it.
    return path if path.startswith(("text_model.", "text_projection")) else f"text_model.{path}"


def _adaptable(root: nn.Module, parents: frozenset[str]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Linears and convolutions below modules whose class has one of these names."""
    for parent_path, parent in root.named_modules():
        if type(parent).__name__ in parents:
            for path, module in parent.named_modules(prefix=parent_path):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    yield path, module


def _at_the_ends(unet: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for path, module in unet.named_modules():
        if _is_end(path) and isinstance(module, nn.Linear | nn.Conv2d):
            yield path, module


def _is_end(path: str) -> bool:
    return path.partition(".")[0] in ENDS
