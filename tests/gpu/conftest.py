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
from library.models.load import load_model
from library.training.recorder import LEAST_TORCH, CudaRecorder
from library.training.step import Trainer
from tests.training.conftest import acting_trainer, random_batch, tiny_model

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
        trainer = acting_trainer(model, asked, device=device, dtype=dtype, checkpointing=checkpointing)
        trainer.network.train()
        return trainer

    return build
