"""The `dojo` command line on tiny models, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from library.cli.main import main
from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.lora_files.file import save_lora
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder
from networks.base import Rates
from networks.build import build_network

Dojo = Callable[..., int]


@pytest.fixture
def dojo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dojo]:
    """`dojo("sample", "--steps", 2)`: the exit status of the command."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads = torch.get_num_threads()
    yield lambda *words: main([str(word) for word in words])
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1 with random weights, in the diffusers layout."""
    folder = tmp_path_factory.mktemp("models") / "sd15"
    write_folder(recipe("sd15", tiny=True), folder)
    return folder


@pytest.fixture(scope="session")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA file for it, as if it had been trained."""
    loaded = load_model(ModelConfig(pretrained_model_name_or_path=str(model)), torch.float32, torch.device("cpu"))
    network = build_network(
        NetworkConfig(network_dim=4), loaded.hosts(["unet", "text_encoders"]), loaded.family, seed=0
    )
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for group in network.parameter_groups(Rates({"unet": 1.0, "te1": 1.0})):
            for parameter in group.parameters:
                parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    file = tmp_path_factory.mktemp("loras") / "hero.safetensors"
    save_lora(file, network.state_dict_to_save(), network.metadata())
    return file
