"""Where the weights that a LoRA file can change lie in a model's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from library.lora_files.names.places import Place, places
from library.models.architecture import Family
from library.models.checkpoint import Checkpoint, read_folder
from library.models.location import locate
from library.models.published import recipe
from library.models.random_weights import empty_modules
from library.models.recognise import recognise
from library.models.rewriting.rewrite import FRACTIONS
from library.models.single_file import read_single_file
from library.models.weights import Placement, StoredTensor, placed_shapes

HOSTS = {"unet": "unet", "text_encoder": "te1", "text_encoder_2": "te2"}
"""Parts of a model that LoRAs act on: component -> host."""

PUBLISHED: dict[Family, str] = {"sd1": "sd15", "sd2": "sd2", "sdxl": "sdxl"}


@dataclass(frozen=True, eq=False)
class StoredPlace:
    """A weight, and the tensor in a file that holds it, maybe with others."""

    place: Place
    stored: StoredTensor
    placement: Placement

    @property
    def dtype(self) -> torch.dtype:
        """In the file; fp32 for the types of a byte."""
        return FRACTIONS.get(self.stored.dtype, torch.float32)

    def weight(self, tensor: Tensor) -> Tensor:
        """The weight inside the stored tensor: a view, through which it can be changed."""
        return tensor if self.placement.transform is None else self.placement.transform(tensor)

    def read(self) -> Tensor:
        """The weight, fp32; in memory for as long as it is held."""
        with safe_open(self.stored.file, framework="pt") as file:
            return self.weight(file.get_tensor(self.stored.key).float())


def open_model(name: str, key: str) -> tuple[Checkpoint, Family]:
    """A model's files, single file, folder or a name on the hub, with no weight read, and its family.

    Args:
        key: the option that holds the name, for messages.

    Raises:
        UserError: not found, unreadable, or not a Stable Diffusion model.
    """
    path = locate(name, key)
    checkpoint = read_folder(path) if path.is_dir() else read_single_file(path)
    return checkpoint, recognise(checkpoint)


def stored_places(checkpoint: Checkpoint, family: Family) -> dict[str, StoredPlace]:
    """By the key in LoRA files."""
    stored = {
        (host, placement.name): (tensor, placement)
        for component, host in HOSTS.items()
        if component in checkpoint.components
        for tensor, placements in checkpoint.components[component].weights.items()
        for placement in placements
    }
    shapes = {
        host: placed_shapes(checkpoint.components[component].weights)
        for component, host in HOSTS.items()
        if component in checkpoint.components
    }
    return {
        key: StoredPlace(place, *stored[place.host, f"{place.path}.weight"])
        for key, place in places(shapes, family).items()
    }


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """Every file that holds weights of the model, in order."""
    return sorted({tensor.file for component in checkpoint.components.values() for tensor in component.weights})


def published_places(family: Family) -> dict[str, Place]:
    """The places of the family's published model, by key, for what needs to know shapes alone."""
    modules = empty_modules(recipe(PUBLISHED[family]))
    shapes = {
        HOSTS[component]: {name: tuple(value.shape) for name, value in module.state_dict().items()}
        for component, module in modules.items()
        if component in HOSTS
    }
    return places(shapes, family)
