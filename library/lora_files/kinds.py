"""The kinds of networks, told from the tensors that only they have."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of network."""

    name: str
    module: str | None = None
    """Its `network_module`; None where the tensor alone does not tell."""


KINDS = {
    "dora_scale": Kind("DoRA", "networks.dora"),
    "lora_mid.weight": Kind("LoCon (Tucker)"),
    "lora_down.weight": Kind("LoRA", "networks.lora"),
    "hada_w1_a": Kind("LoHa", "networks.loha"),
    "lokr_w1": Kind("LoKr", "networks.lokr"),
    "lokr_w1_a": Kind("LoKr", "networks.lokr"),
    "oft_blocks": Kind("OFT", "networks.oft"),
    "diff": Kind("full weights"),
    "w_norm": Kind("norms"),
}
"""A tensor (its name after the site's key) -> the kind that has it; the first that is there counts."""


def kind_of(parts: Collection[str]) -> str:
    """The kind of a site with these tensors."""
    return next((kind.name for part, kind in KINDS.items() if part in parts), "unknown")


def module_of(parts: Collection[str]) -> str | None:
    """The `network_module` of a file with these tensors; None where they do not tell."""
    return next((kind.module for part, kind in KINDS.items() if kind.module and part in parts), None)
