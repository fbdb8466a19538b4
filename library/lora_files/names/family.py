"""Which family of models a LoRA was trained on, from its tensors alone.

The UNet's cross attention reads 768 (SD 1), 1024 (SD 2) or 2048 features (SDXL), SD 2's text encoder is 1024 wide, and only
SDXL has a second one. What the tensors leave open, the metadata may settle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from library.core.errors import UserError
from library.lora_files.names.module_names import ModuleName
from library.lora_files.names.styles import parse, refuse_no_lora

CONTEXT_FAMILIES = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Features that cross attention reads -> family."""

ALL = frozenset({"sd1", "sd2", "sdxl"})


@dataclass(frozen=True)
class Evidence:
    """What one thing in a file says of the family."""

    families: frozenset[str]
    reason: str


def recognise_family(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """ "sd1", "sd2" or "sdxl".

    Raises:
        UserError: it is no LoRA of these families, its tensors contradict one another, or leave it open; says why.
    """
    refuse_no_lora(tensors)
    left, reasons = ALL, list[str]()
    for evidence in evidence_of(tensors):
        if not left & evidence.families:
            raise UserError(
                f"its family cannot be told: {'; '.join(reasons)}; but {evidence.reason}. Several LoRAs seem to be mixed in it."
            )
        if left - evidence.families:
            reasons.append(evidence.reason)
        left &= evidence.families
    said = metadata_says(metadata)
    if len(left) > 1 and said is not None and left & said.families:
        left &= said.families
    if len(left) > 1:
        raise UserError(
            f"its family cannot be told: {'; '.join(reasons) or 'neither shapes nor names say'}, which fits "
            f"{' and '.join(sorted(left))}, and the metadata does not settle it. Say it with --family."
        )
    (family,) = left
    return family


def evidence_of(tensors: Mapping[str, Tensor]) -> Iterator[Evidence]:
    """What the tensors' names and shapes say, one thing at a time and each only once."""
    seen = set()
    for name, tensor in tensors.items():
        place = parse(name)
        if place is None:
            continue
        inputs = _inputs(place.part, tensor)
        for evidence in (_of_width(place.module, inputs), _of_name(place.module, name)):
            if evidence is not None and evidence not in seen:
                seen.add(evidence)
                yield evidence


def metadata_says(metadata: Mapping[str, str]) -> Evidence | None:
    """What `ss_base_model_version` or `modelspec.architecture` say; None where neither does."""
    version, spec = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    signs = {
        "sdxl": version.startswith("sdxl") or "stable-diffusion-xl" in spec,
        "sd2": version.startswith("sd_v2") or "stable-diffusion-v2" in spec or metadata.get("ss_v2") == "True",
        "sd1": version.startswith("sd_v1") or "stable-diffusion-v1" in spec,
    }
    said = next((family for family, found in signs.items() if found), None)
    return Evidence(frozenset({said}), f"the metadata says {said}") if said else None


def _of_width(module: ModuleName, inputs: int | None) -> Evidence | None:
    """From the number of features that a module reads."""
    if module.host == "unet" and module.path.endswith(("attn2.to_k", "attn2.to_v")) and inputs in CONTEXT_FAMILIES:
        family = CONTEXT_FAMILIES[inputs]
        return Evidence(frozenset({family}), f"cross attention reads {inputs} features, as in {family}")
    if module.host == "te1" and module.path.endswith(("q_proj", "k_proj", "v_proj", "fc1")) and inputs in (768, 1024):
        families = frozenset({"sd2"}) if inputs == 1024 else ALL - {"sd2"}
        return Evidence(families, f"the text encoder is {inputs} wide")
    return None


def _of_name(module: ModuleName, name: str) -> Evidence | None:
    """From which modules there are."""
    if module.host == "te2":
        return Evidence(frozenset({"sdxl"}), "there is a second text encoder")
    if name.startswith(("lora_te_", "lora_te.")):
        return Evidence(ALL - {"sdxl"}, "the text encoder is called lora_te, as in SD 1 and 2")
    if name.startswith(("lora_te1_", "lora_te1.")):
        return Evidence(frozenset({"sdxl"}), "the text encoder is called lora_te1, as in SDXL")
    if ".transformer_blocks." in module.path and ".transformer_blocks.0." not in module.path:
        return Evidence(frozenset({"sdxl"}), "transformers have several blocks")
    if module.path.startswith(("down_blocks.3.", "up_blocks.3.", "down_blocks.0.attentions", "up_blocks.2.attentions")):
        return Evidence(ALL - {"sdxl"}, f"the UNet has {'.'.join(module.path.split('.')[:3])}, as in SD 1 and 2")
    return None


def _inputs(part: str, tensor: Tensor) -> int | None:
    """Features that a module reads, by one of its tensors."""
    reads = {"lora_down.weight", "hada_w1_b", "hada_w2_b"}
    return int(tensor.shape[1]) if part in reads and tensor.dim() >= 2 else None
