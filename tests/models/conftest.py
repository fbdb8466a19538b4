from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder, write_single_file
from networks.base import Rates
from networks.build import build_network
from networks.inject import AdapterNetwork

FAMILIES = ("sd15", "sd2_v", "sdxl")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str, str], Path]:
    """`tiny("sd15", "folder")` or `tiny("sdxl", "file")`: the same random model in either layout, made once."""
    root = tmp_path_factory.mktemp("models")

    def path(family: str, layout: str) -> Path:
        out = root / (family if layout == "folder" else f"{family}.safetensors")
        if not out.exists():
            (write_folder if layout == "folder" else write_single_file)(recipe(family, tiny=True), out)
        return out

    return path


@pytest.fixture
def load() -> Callable[..., DiffusionModel]:
    """`load(path, clip_skip=2)`: the model on the CPU in fp32."""

    def loaded(path: Path, dtype: torch.dtype = torch.float32, **settings) -> DiffusionModel:
        return load_model(ModelConfig(pretrained_model_name_or_path=str(path), **settings), dtype, torch.device("cpu"))

    return loaded


class Attached:
    """A model with a LoRA of a few ranks on it, as if it had been trained."""

    def __init__(self, model: DiffusionModel, dropout: float | None = None) -> None:
        self.model = model
        hosts = model.hosts(["unet", "text_encoders"])
        config = NetworkConfig(network_alpha=2, network_dropout=dropout, network_args={"conv_dim": 2})
        network = build_network(config, hosts, model.family, 0)
        assert isinstance(network, AdapterNetwork)
        self.network = network.train()
        groups = network.parameter_groups(Rates(dict.fromkeys(hosts, 1.0)))
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group.parameters]
        draw = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.1)

    def predict(self) -> Tensor:
        """(2, 4, 8, 8)"""
        conditioning = self.model.encode_tokens(self.model.tokenize(["a fighter", "another"]))
        sizes_B6 = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)
        return self.model.predict(torch.ones(2, 4, 8, 8), torch.tensor([10, 500]), conditioning, sizes_B6)

    def gradients(self) -> list[Tensor]:
        """Of the LoRA's parameters; SDXL does not read its first encoder's last layer."""
        torch.manual_seed(4)
        loss = self.predict().float().square().mean()
        torch.manual_seed(99)  # a backward pass must not depend on where the generator stands by then
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        return [gradient for gradient in found if gradient is not None]


@pytest.fixture
def attach() -> type[Attached]:
    """`attach(model, dropout=0.3)`."""
    return Attached
