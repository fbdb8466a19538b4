"""What only a GPU can show: `python -m pytest tests/gpu`.

Where there is none, a test runs on the CPU as far as that goes, with a stand-in that "records" work by doing it again. So the
tests themselves are known to run, and what fails on a GPU is the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.config.schema.training import LossConfig, OptimizerConfig
from library.diffusion.distance import build_distance
from library.diffusion.weighting import build_weighting
from library.models.load import load_model
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from library.training.recorder import LEAST_TORCH, CudaRecorder
from library.training.step import LAG, Trainer
from networks.base import Rates
from networks.build import build_network
from tests.training.conftest import random_batch, tiny_model

__all__ = ["device", "gpu", "new_trainer", "random_batch", "recorder", "tiny_model"]


class Counting:
    """A recorder that counts, and knows whether it was given up; without another one within it does recorded work by doing
    it again.
    """

    def __init__(self, within: CudaRecorder | None) -> None:
        self.within = within
        self.recorded = 0
        self.given_up = False

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        if self.within is None:
            work()
        else:
            self.within.warm_up(work, strict)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        replay = work if self.within is None else self.within.record(work)
        self.recorded += 1
        return replay

    def close(self) -> None:
        self.given_up = True
        if self.within is not None:
            self.within.close()


@pytest.fixture
def gpu() -> torch.device:
    """Skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Both; the GPU is skipped where there is none."""
    found: torch.device = request.getfixturevalue("gpu") if request.param == "cuda" else torch.device("cpu")
    return found


@pytest.fixture
def recorder(device: torch.device) -> Counting:
    """Of the device."""
    if device.type == "cuda" and torch.__version__ < LEAST_TORCH:
        pytest.skip("CUDA graphs are off with this torch")
    return Counting(CudaRecorder(device) if device.type == "cuda" else None)


@pytest.fixture
def new_trainer(tiny_model: Path, device: torch.device) -> Callable[..., Trainer]:
    """`new_trainer(dtype=torch.float32, checkpointing=None, network={}, **model settings)`: the whole step on a tiny Stable
    Diffusion 1.5, with a network that already acts. Every call gives the same weights.
    """

    def build(
        dtype: torch.dtype = torch.float32,
        checkpointing: str | None = None,
        network: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Trainer:
        asked = {"network_module": "networks.lora", "network_dim": 2, **(network or {})}
        model = load_model(ModelConfig(pretrained_model_name_or_path=str(tiny_model), **settings), dtype, device)
        hosts = model.hosts(["unet", "text_encoders"])
        built = build_network(NetworkConfig(**asked), hosts, model.family, seed=3)
        if checkpointing is not None:
            model.enable_gradient_checkpointing(checkpointing == "selective", built.draws_random)
        groups = flatten(built.parameter_groups(Rates({"unet": 1e-2, "te1": 1e-3})))
        noise = torch.randn(groups.values.shape, generator=torch.Generator().manual_seed(5)).to(device)
        groups.values.add_(0.02 * noise * (groups.values == 0))
        built.train()
        distance, weighting = (make(LossConfig(), model.process) for make in (build_distance, build_weighting))
        return Trainer(
            model=model,
            network=built,
            objective=Objective(model, distance, weighting),
            groups=groups,
            optimizer=build_optimizer(OptimizerConfig(optimizer_type="AdamW"), groups),
            schedule=lambda step: 1.0,
            loss_scale=LossScale(dtype == torch.float16, device),
            ema=None,
            seed=0,
            rank=0,
            processes=1,
            device=device,
            max_grad_norm=1.0,
            max_weight_norm=None,
            lag=LAG if device.type == "cuda" else 0,
        )

    return build
