"""The metadata without which other programs show or load a LoRA wrongly, told from its tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from library.lora_files.kinds import module_of
from library.lora_files.metadata import architecture, base_version


def with_essentials(metadata: Mapping[str, str], tensors: Mapping[str, Tensor], family: str) -> dict[str, str]:
    """The metadata, and where it says nothing of them, the base model, the network, its rank and alpha.

    Args:
        tensors: under sd-scripts' names.
    """
    predicts_v = metadata.get("modelspec.prediction_type") == "v"
    essentials = {
        "ss_v2": str(family == "sd2"),
        "ss_base_model_version": base_version(family, predicts_v),
        **network_entries(tensors),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(family, predicts_v),
    }
    return {**essentials, **metadata}


def network_entries(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`ss_network_module`, and the most frequent rank and alpha where it is one with `lora_down`."""
    parts = {name.partition(".")[2] for name in tensors}
    found = module_of(parts)
    entries = {} if found is None else {"ss_network_module": found}
    ranks = Counter(tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".lora_down.weight"))
    alphas = Counter(
        float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha") and tensor.numel() == 1
    )
    if ranks:
        [(rank, _)] = ranks.most_common(1)
        [(alpha, _)] = alphas.most_common(1) or [(float(rank), 0)]
        entries |= {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha)}
    return entries
