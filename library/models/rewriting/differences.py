"""What a tuned model's weights differ in from those of the model that it was tuned from, one weight at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from library.core.errors import UserError
from library.models.architecture import Family
from library.models.checkpoint import Checkpoint
from library.models.original_names import without_text_model_level
from library.models.rewriting.stored_places import HOSTS, StoredPlace, stored_places
from library.models.weights import Placement, StoredTensor, read_tensors


@dataclass(frozen=True)
class Pair:
    """Two models with the same weights in different values."""

    base: Mapping[str, StoredPlace]
    tuned: Mapping[str, StoredPlace]

    def difference(self, key: str) -> Tensor:
        """Tuned minus base, fp32."""
        return self.tuned[key].read() - self.base[key].read()

    def keys(self, conv: bool) -> list[str]:
        """Of the layers that a LoRA acts on, or of those that it acts on with `conv_dim` alone.

        Args:
            conv: the latter.
        """
        return [key for key, found in self.base.items() if found.place.scope == ("conv" if conv else "attention")]

    def largest(self, host: str) -> float:
        """The largest difference of any value in a host's layers."""
        keys = [key for key in self.keys(conv=False) if self.base[key].place.host == host]
        return max((float(self.difference(key).abs().max()) for key in keys), default=0.0)


def paired(base: Checkpoint, tuned: Checkpoint, family: Family) -> Pair:
    """The weights of two models of one family.

    Raises:
        UserError: they are of different shapes.
    """
    pair = Pair(stored_places(base, family), stored_places(tuned, family))
    one, other = ({key: found.place.shape for key, found in each.items()} for each in (pair.base, pair.tuned))
    if wrong := [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]:
        raise UserError(
            f"'{tuned.path}' was not tuned from '{base.path}': {len(wrong)} weights are missing or of another shape, such as "
            f"{wrong[0]}. Give the model that it was made from."
        )
    return pair


def differing_others(base: Checkpoint, tuned: Checkpoint, pair: Pair) -> list[str]:
    """Names of the weights that differ and that no LoRA layer stands for: biases, norms, embeddings, the first and last layers."""
    layers = {
        (found.place.host, without_text_model_level(f"{found.place.path}.weight"))
        for found in pair.base.values()
        if found.place.scope != "other"
    }
    ones, others = (_others(each, layers) for each in (base, tuned))
    same = [name for name in ones.keys() & others.keys() if torch.equal(_read(*ones[name]), _read(*others[name]))]
    return sorted((ones.keys() | others.keys()) - set(same))


def _others(checkpoint: Checkpoint, but: set[tuple[str, str]]) -> dict[str, tuple[StoredTensor, Placement]]:
    """The hosts' other weights by their names."""
    return {
        f"{host}.{without_text_model_level(placement.name)}": (stored, placement)
        for component, host in HOSTS.items()
        if component in checkpoint.components
        for stored, placements in checkpoint.components[component].weights.items()
        for placement in placements
        if (host, without_text_model_level(placement.name)) not in but
    }


def _read(stored: StoredTensor, placement: Placement) -> Tensor:
    ((_, tensor),) = read_tensors([stored])
    return (tensor if placement.transform is None else placement.transform(tensor)).float()
