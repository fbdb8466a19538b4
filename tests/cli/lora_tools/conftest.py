"""Tiny models with LoRA files for them, for the tools that put LoRAs together and take them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.lora_files.file import read_lora, save_lora
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder, write_single_file
from networks.base import Rates
from networks.build import build_network
from networks.files.apply import apply_lora

VERSIONS = {"sd15": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Kit:
    """A tiny model of a family, in both layouts and types, and LoRAs for it, each made when it is first asked for."""

    name: str
    root: Path
    loras: dict[object, Path] = field(default_factory=dict)

    def model(self, layout: str = "folder", dtype: str = "fp32") -> Path:
        """The model's path."""
        path = self.root / f"{dtype}{'.safetensors' if layout == 'file' else ''}"
        if not path.exists():
            write = write_single_file if layout == "file" else write_folder
            write(recipe(self.name, tiny=True), path, DTYPES[dtype])
        return path

    def load(self, path: Path | None = None) -> DiffusionModel:
        """A model of this kind, fp32."""
        config = ModelConfig(pretrained_model_name_or_path=str(path or self.model()))
        return load_model(config, torch.float32, torch.device("cpu"))

    def lora(self, seed: int = 0, dtype: torch.dtype = torch.float32, strength: float = 0.1, **config: object) -> Path:
        """A LoRA file as if it had been trained."""
        asked = (seed, dtype, strength, repr(config))
        if asked not in self.loras:
            model = self.load()
            network = build_network(NetworkConfig(**config), hosts_of(model), model.family, seed)  # type: ignore[arg-type]
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for group in network.parameter_groups(Rates(dict.fromkeys(hosts_of(model), 1.0))):
                    for parameter in group.parameters:
                        parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=strength)
            path = self.root / f"lora{len(self.loras)}.safetensors"
            metadata = {**network.metadata(), "ss_base_model_version": VERSIONS[self.name]}
            save_lora(path, network.state_dict_to_save(), metadata, dtype)
            self.loras[asked] = path
        return self.loras[asked]

    def outputs(self, path: Path | None = None, *loras: tuple[Path, float]) -> Tensor:
        """What the model predicts with LoRAs on it, one value after the other; text encoders included."""
        model = self.load(path)
        for file, strength in loras:
            apply_lora(file, hosts_of(model), model.family, strength)
        with torch.no_grad():
            conditioning = model.encode_tokens(model.tokenize(["a fighter", "another"]))
            sizes_B6 = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
            return model.predict(torch.ones(2, 4, 8, 8), torch.tensor([10, 500]), conditioning, sizes_B6).flatten()


def hosts_of(model: DiffusionModel) -> dict[str, torch.nn.Module]:
    return dict(model.hosts(["unet", "text_encoders"]))


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kit]:
    """`kit("sdxl")`."""
    made: dict[str, Kit] = {}

    def get(name: str) -> Kit:
        if name not in made:
            made[name] = Kit(name, tmp_path_factory.mktemp(name))
        return made[name]

    return get


def dense(path: Path) -> dict[str, Tensor]:
    """Each site's change as a matrix in double precision, straight from the tensors of a plain LoRA."""
    tensors = read_lora(path)[0]
    keys = {name.partition(".")[0] for name in tensors}
    return {
        key: float(tensors[f"{key}.alpha"])
        / len(tensors[f"{key}.lora_down.weight"])
        * (
            tensors[f"{key}.lora_up.weight"].double().flatten(1)
            @ tensors[f"{key}.lora_down.weight"].double().flatten(1)
        )
        for key in keys
    }
