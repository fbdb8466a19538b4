"""The styles of naming in which programs write LoRA files, read into one: sd-scripts' ("kohya").

What a converted file does to a model is the same: the tensors are those of the file, and only names, the shape of DoRA's
magnitudes, and where alpha stands differ. LoRA and DoRA are read in every style; LoHa, LoKr, OFT and others under keys with
underscores keep their tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from library.core.errors import UserError
from library.lora_files.names.keys import file_key
from library.lora_files.names.layouts import KEY_LAYOUTS
from library.lora_files.names.module_names import UNDERSCORED, ModuleName, kohya_path, of_key, of_path
from library.lora_files.names.oft import limited
from library.lora_files.names.peft_alphas import PeftScales

Style = Literal[
    "kohya", "kohya-diffusers", "kohya-original", "sd-scripts-oft", "simpletuner", "peft", "diffusers", "attention-processors",
    "onetrainer",
]  # fmt: skip

DESCRIBED: dict[Style, str] = {
    "kohya": "kohya (sd-scripts)",
    "kohya-diffusers": "kohya with diffusers' names of the UNet",
    "kohya-original": "kohya with the original names of the UNet",
    "sd-scripts-oft": "OFT of sd-scripts (oft_unet_)",
    "simpletuner": "LyCORIS of SimpleTuner (lycoris_)",
    "peft": "diffusers / PEFT (lora_A, lora_B)",
    "diffusers": "diffusers (lora.down, lora_linear_layer)",
    "attention-processors": "diffusers before PEFT (processor.to_q_lora)",
    "onetrainer": "OneTrainer (dotted names)",
}

NAMED_FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
"""Families whose names are known without a model."""

_PARTS = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "A": "lora_down.weight",
    "B": "lora_up.weight",
}
_DOTTED_PART = re.compile(
    r"(?:[._]lora\.(?P<diffusers>down|up)\.weight|\.lora_linear_layer\.(?P<layer>down|up)\.weight"
    r"|\.lora_(?P<peft>[AB])(?:\.[\w-]+)??(?:\.weight)?"
    r"|\.lora_magnitude_vector(?:\.[\w-]+)??(?P<magnitude>(?:\.weight)?)"
    r"|(?:_lora)?\.(?P<plain>lora_(?:down|up|mid)\.weight|alpha|dora_scale|hada_\w+|lokr_\w+|oft_blocks|rescale))$"
)


@dataclass(frozen=True)
class TensorName:
    """What one name in a LoRA file says."""

    module: ModuleName
    part: str
    """kohya's name of the part: `lora_down.weight`, `alpha`, ..."""
    style: Style


def parse(name: str) -> TensorName | None:
    """Module, part and style of a tensor's name; None where it names no module of the SD families."""
    key, _, rest = name.partition(".")
    if key.startswith(tuple(UNDERSCORED)) and (module := of_key(key)) is not None:
        return TensorName(module, rest, _underscored_style(key, module))
    found = _DOTTED_PART.search(name)
    dotted_module = of_path(name[: found.start()]) if found else None
    if found is None or dotted_module is None:
        return None
    if found["plain"]:
        return TensorName(dotted_module, found["plain"], "onetrainer")
    if found["peft"] or found["magnitude"] is not None:
        return TensorName(dotted_module, _PARTS[found["peft"]] if found["peft"] else "dora_scale", "peft")
    old: Style = "attention-processors" if found[0].startswith("_") else "diffusers"
    return TensorName(dotted_module, _PARTS[found["diffusers"] or found["layer"]], old)


def to_kohya(
    tensors: Mapping[str, Tensor],
    family: str,
    scales: PeftScales,
    keep_strangers: bool = False,
) -> tuple[dict[str, Tensor], Style]:
    """The tensors under sd-scripts' names, and the style that they had. Those that are so named already are returned as they are.

    Args:
        family: decides SDXL's names of the UNet; of families without a fixed list of names nothing is converted.
        scales: the alphas that PEFT's configuration gives.
        keep_strangers: let tensors through whose names mean nothing here.

    Raises:
        UserError: names that belong to no LoRA of the SD families, or two names of one tensor.
    """
    if family not in NAMED_FAMILIES:
        return dict(tensors), "kohya"
    parsed = {name: parse(name) for name in tensors}
    places = {name: place for name, place in parsed.items() if place is not None}
    if not keep_strangers:
        refuse_strangers(tensors, places)
    names = {name: kohya_name(place, family) for name, place in places.items()}
    if all(name == new for name, new in names.items()):
        return dict(tensors), "kohya"
    _refuse_twins(names)
    converted = {name: tensor for name, tensor in tensors.items() if name not in places}
    converted |= {new: _kohya_tensor(places[name], tensors[name], tensors, name) for name, new in names.items()}
    for name, place in places.items():
        alpha = names[name].removesuffix(place.part) + "alpha"
        if place.part == "lora_down.weight" and alpha not in converted and tensors[name].dim():
            rank = tensors[name].shape[0]
            outside = place.style in ("peft", "diffusers")
            converted[alpha] = torch.tensor(scales.alpha(place.module, rank) if outside else float(rank))
    return converted, style_of(places, names)


def style_of(places: Mapping[str, TensorName], names: Mapping[str, str]) -> Style:
    """The style of a file, by the names that are not kohya's."""
    styles: list[Style] = [place.style for name, place in places.items() if names[name] != name]
    preferred: tuple[Style, ...] = ("attention-processors", "diffusers", "peft")
    return next((style for style in preferred if style in styles), max(styles, key=styles.count))


def kohya_name(place: TensorName, family: str) -> str:
    """sd-scripts' name of a tensor.

    Raises:
        UserError: the family has no such module.
    """
    try:
        path = kohya_path(place.module, family)
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"{place.module.host}: {place.module.path} is no module of a model of the family {family}."
        ) from None
    layout = KEY_LAYOUTS.get(family)
    if place.module.host not in layout.prefixes:
        raise UserError(
            f"the file has weights for {place.module.host}, which a model of the family {family} does not have."
        )
    return f"{file_key(place.module.host, path, layout)}.{place.part}"


def refuse_strangers(tensors: Mapping[str, Tensor], known: Mapping[str, object]) -> None:
    """Refuse tensors that are no part of a LoRA of the SD families, rather than leave them out.

    Raises:
        UserError: says what they seem to be.
    """
    strangers = sorted(tensors.keys() - known.keys())
    if not strangers:
        return
    listed = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
    embeddings = [
        name for name in strangers if name.startswith("bundle_emb") or "emb_params" in name or "string_to_param" in name
    ]
    if known and embeddings:
        raise UserError(
            f"it carries a textual inversion beside the LoRA ({listed}), which cannot be kept in the LoRA itself: take the "
            "embedding out with the program that wrote it, or load both there."
        )
    if known:
        raise UserError(
            f"{len(strangers)} of its {len(tensors)} tensors belong to no LoRA of Stable Diffusion 1, 2 or XL: {listed}."
        )
    raise UserError(_told(tensors))


def refuse_no_lora(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what holds no LoRA of the SD families.

    Raises:
        UserError: says what it seems to be.
    """
    if not any(parse(name) for name in tensors):
        raise UserError(_told(tensors))


def what_it_is(tensors: Mapping[str, Tensor]) -> str:
    """In words, what a file without a LoRA of the SD families seems to be."""
    names = list(tensors)
    signs = {
        "a whole checkpoint, not a LoRA": (
            "model.diffusion_model.",
            "cond_stage_model.",
            "conditioner.",
            "first_stage_model.",
        ),
        "a textual inversion, not a LoRA": ("emb_params", "string_to_param", "bundle_emb"),
        "a ControlNet, not a LoRA": ("control_model.", "controlnet", "lllite_"),
        "a LoRA of another model than Stable Diffusion 1, 2 or XL": (
            "lora_",
            "transformer.",
            "diffusion_model.",
        ),
        "the weights of a UNet, not a LoRA": ("down_blocks.", "conv_in.", "mid_block.", "up_blocks."),
        "the weights of a text encoder, not a LoRA": ("text_model.", "encoder.layers."),
        "a VAE, not a LoRA": ("encoder.", "decoder.", "quant_conv."),
    }
    if set(names) <= {"clip_l", "clip_g"} and names:
        return "a textual inversion, not a LoRA"
    for described, prefixes in signs.items():
        if any(name.startswith(prefixes) for name in names):
            return described
    return "not a LoRA in the layout of sd-scripts, diffusers or PEFT" if names else "empty"


def _told(tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return f"it is {what_it_is(tensors)}" + (f"; its tensors begin with {', '.join(names[:3])}." if names else ".")


def _underscored_style(key: str, module: ModuleName) -> Style:
    if key.startswith("oft_unet_"):
        return "sd-scripts-oft"
    if key.startswith("lycoris_"):
        return "simpletuner"
    return "kohya-original" if module.original else "kohya-diffusers" if module.host == "unet" else "kohya"


def _refuse_twins(names: Mapping[str, str]) -> None:
    seen: dict[str, str] = {}
    for name, new in names.items():
        if new in seen:
            raise UserError(f"{seen[new]} and {name} are two names of one tensor, {new}: the file is not one LoRA.")
        seen[new] = name


def _kohya_tensor(place: TensorName, tensor: Tensor, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if place.style == "peft" and place.part == "dora_scale":
        # PEFT's (O) for linears and (1, O, 1, 1) for convolutions; LyCORIS has (O, 1) and (O, 1, 1, 1)
        return tensor.reshape(tensor.numel(), *[1] * max(tensor.dim() - 1, 1))
    if place.style == "sd-scripts-oft":
        blocks, alpha = (tensors.get(name.removesuffix(place.part) + part) for part in ("oft_blocks", "alpha"))
        if blocks is not None and blocks.dim() == 3 and alpha is not None and alpha.numel() == 1:
            # others read alpha otherwise than sd-scripts
            if place.part == "alpha":
                return torch.zeros_like(alpha)
            return limited(blocks.float(), float(alpha) * blocks.shape[0] * blocks.shape[1])
    return tensor
