"""A LoRA under the names of another program; the change of every weight stays the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from library.core.errors import UserError
from library.lora_files.names.keys import file_key
from library.lora_files.names.layouts import KEY_LAYOUTS, KeyLayout
from library.lora_files.names.module_names import ModuleName
from library.lora_files.names.peft_alphas import HOSTS
from library.lora_files.names.styles import parse

Target = Literal["kohya", "kohya-diffusers", "diffusers"]

_PEFT_PARTS = {
    "lora_down.weight": "lora_A.weight",
    "lora_up.weight": "lora_B.weight",
    "dora_scale": "lora_magnitude_vector",
}


def converted(tensors: Mapping[str, Tensor], family: str, target: Target) -> dict[str, Tensor]:
    """A LoRA under sd-scripts' names, under those of the target.

    Args:
        family: "sd1", "sd2" or "sdxl".

    Raises:
        UserError: the target has no names for what the file holds.
    """
    convert: dict[Target, Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]] = {
        "kohya": lambda tensors, family: dict(tensors),
        "kohya-diffusers": to_kohya_diffusers,
        "diffusers": lambda tensors, family: to_diffusers(tensors),
    }
    return convert[target](tensors, family)


def to_kohya_diffusers(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Keys with underscores and diffusers' names of the UNet, as ai-toolkit and OneTrainer write them."""
    layout: KeyLayout = KEY_LAYOUTS.get(family)
    renamed = {}
    for name, tensor in tensors.items():
        module, part = _place(name)
        renamed[f"{file_key(module.host, module.path, layout)}.{part}"] = tensor
    return renamed


def to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' names. It reads no alpha there, so that of the file goes into `lora_B`.

    A product that the file's type cannot hold exactly is stored as fp32.
    """
    foreign = sorted({_place(name)[1] for name in tensors} - {*_PEFT_PARTS, "alpha"})
    if foreign:
        raise UserError(
            f"diffusers' names exist for LoRA and DoRA alone, and the file holds {', '.join(foreign)}. Convert it to kohya, "
            "which other programs read."
        )
    renamed = {}
    for name, tensor in tensors.items():
        module, part = _place(name)
        if part == "alpha":
            continue
        if part == "lora_up.weight":
            alpha = tensors.get(name.removesuffix(part) + "alpha")
            tensor = tensor if alpha is None else exact_product(tensor, float(alpha) / tensor.shape[1])
        elif part == "dora_scale":
            tensor = _magnitudes(name, tensor, tensors)
        # transformers, which loads text encoders, leaves magnitudes out that are named as in the UNet
        ending = ".weight" if part == "dora_scale" and module.host != "unet" else ""
        renamed[f"{HOSTS[module.host]}.{module.path}.{_PEFT_PARTS[part]}{ending}"] = tensor
    return renamed


def exact_product(tensor: Tensor, scale: float) -> Tensor:
    """The tensor times a number: in its own type where that loses nothing, else in fp32."""
    exact = tensor.double() * scale
    rounded = exact.to(tensor.dtype)
    return rounded if torch.equal(rounded.double(), exact) else exact.float()


def _magnitudes(name: str, scale: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """DoRA's magnitudes in PEFT's shape: (O) of a linear, (1, O, 1, 1) of a convolution."""
    up = tensors[name.removesuffix("dora_scale") + "lora_up.weight"]
    outputs = up.shape[0]
    if scale.shape[:1] != (outputs,) or scale.numel() != outputs:
        raise UserError(
            f"{name} has the shape {list(scale.shape)}: its DoRA measures the weight by inputs (LyCORIS with "
            f"wd_on_output=False), where diffusers measures it by its {outputs} outputs. Convert it to kohya."
        )
    return scale.reshape(1, outputs, 1, 1) if up.dim() == 4 else scale.reshape(outputs)


def _place(name: str) -> tuple[ModuleName, str]:
    found = parse(name)
    if found is None:
        raise UserError(f"{name} belongs to no LoRA of Stable Diffusion 1, 2 or XL.")
    return found.module, found.part
