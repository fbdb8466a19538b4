"""One alpha for all linears of a LoRA file.

diffusers (0.42) reads alphas that differ between modules wrongly for attention layers, so a network with alphas by block
is written with its most frequent alpha, and the difference goes into `lora_up`. What the file does to a model is the same
for every reader.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor


def with_one_alpha(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with alpha / rank · up · down unchanged at every site, and one alpha in all linears."""
    ups = {
        name.removesuffix(".lora_up.weight"): tensor
        for name, tensor in tensors.items()
        if name.endswith(".lora_up.weight")
    }
    alphas = {
        key: float(tensors[f"{key}.alpha"]) for key, up in ups.items() if up.dim() == 2 and f"{key}.alpha" in tensors
    }
    if len(set(alphas.values())) <= 1:
        return dict(tensors)
    # 0, which turns a site off, can be no divisor
    [(common, _)] = Counter(filter(None, alphas.values())).most_common(1)
    changed = {key: alpha for key, alpha in alphas.items() if alpha != common}
    return {
        **tensors,
        **{f"{key}.lora_up.weight": ups[key] * (alpha / common) for key, alpha in changed.items()},
        **{f"{key}.alpha": tensors[f"{key}.alpha"].new_tensor(common) for key in changed},
    }
