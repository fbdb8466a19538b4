"""A model with LoRA files on it, for the commands that generate pictures."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from library.config.schema import Config, ModelConfig, NetworkConfig
from library.core.errors import UserError
from library.core.pickles import PICKLES
from library.core.runtime import keep_freed_memory, use_all_cores
from library.inference.requests import SampleRequest
from library.inference.sample import generate
from library.models.base import DiffusionModel
from library.models.diffusers_classes import import_model_classes
from library.models.load import load_model
from library.models.pickles import without_pickles
from networks.files.apply import apply_lora
from networks.inject import AdapterNetwork

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parse_lora(text: str) -> tuple[Path, float]:
    """`file.safetensors:0.8` as path and strength."""
    path, colon, strength = text.rpartition(":")
    if colon and path.lower().endswith((".safetensors", *PICKLES)):
        try:
            number = float(strength)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise UserError(f"--lora {text}: '{strength}' is not a number; write file.safetensors:0.8.")
        return Path(path), number
    return Path(text), 1.0


@dataclass(frozen=True)
class ModelWithLoras:
    """Generates with and without its LoRAs."""

    model: DiffusionModel
    networks: Sequence[AdapterNetwork]

    def paint(
        self, requests: Sequence[SampleRequest], with_loras: bool = True, batch_size: int = 4
    ) -> list[Image.Image]:
        """One picture a request; so many at once."""
        with ExitStack() as stack:
            for network in self.networks:
                stack.enter_context(network.enabled(with_loras))
            return list(generate(self.model, requests, self.networks, batch_size=batch_size))


def load_with_loras(arguments: argparse.Namespace) -> ModelWithLoras:
    """The model of the command line with its LoRAs attached.

    Raises:
        UserError: model or LoRA cannot be read, or they do not fit.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()
    use_all_cores(1)
    loras = [parse_lora(text) for text in arguments.lora]
    asked = ModelConfig(
        pretrained_model_name_or_path=arguments.pretrained_model_name_or_path,
        vae=arguments.vae,
        allow_pickle=arguments.allow_pickle,
        tokenizer=arguments.tokenizer,
        clip_skip=arguments.clip_skip,
    )
    config = without_pickles(Config(model=asked, network=NetworkConfig(base_weights=[str(file) for file, _ in loras])))
    import_model_classes()
    model = load_model(config.model, DTYPES[arguments.mixed_precision], device)
    hosts = model.hosts(["unet", "text_encoders"])
    networks = [
        apply_lora(Path(file), hosts, model.family, strength)
        for file, (_, strength) in zip(config.network.base_weights, loras, strict=True)
    ]
    return ModelWithLoras(model, networks)
