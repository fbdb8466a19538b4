"""A trainer small enough to be saved and loaded in a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from library.config.schema.training import OptimizerConfig
from library.optim.ema import ExponentialAverage
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer
from library.training.loss_scale import LossScale
from library.training.step import Trainer
from networks.base import ParameterGroup

KEY = "lora_unet_mid_block_attentions_0_proj_in"


@dataclass
class TinyNetwork:
    """What saving asks of a network: its tensors, and to be told when it is looked at instead of trained."""

    weight: nn.Parameter
    training: bool = True
    multipliers: list[float] = field(default_factory=list)

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def set_multiplier(self, multiplier: float) -> None:
        self.multipliers.append(multiplier)

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        yield

    def state_dict_to_save(self) -> dict[str, Tensor]:
        assert not self.training, "dropouts are off while a file is saved"
        return {f"{KEY}.lora_down.weight": self.weight.detach().clone()}


@pytest.fixture
def new_trainer() -> Callable[..., Trainer]:
    """`new_trainer(value=0.0, ema=True, rank=0, size=8, fp16=False)`."""

    def build(
        value: float = 0.0,
        ema: bool = False,
        rank: int = 0,
        size: int = 8,
        fp16: bool = False,
        optimizer: str = "AdamW",
    ) -> Trainer:
        weight = nn.Parameter(torch.full((2, size // 2), value))
        groups = flatten([ParameterGroup("unet", [weight], 0.1)])
        cpu = torch.device("cpu")
        return Trainer(
            model=SimpleNamespace(),
            network=TinyNetwork(weight),
            objective=None,
            groups=groups,
            optimizer=build_optimizer(OptimizerConfig(optimizer_type=optimizer), groups),
            schedule=lambda step: 1.0,
            loss_scale=LossScale(fp16, cpu),
            ema=ExponentialAverage(groups, 0.9) if ema else None,
            seed=0,
            rank=rank,
            processes=1,
            device=cpu,
            max_grad_norm=0.0,
            max_weight_norm=None,
        )

    return build


@pytest.fixture
def update() -> Callable[[Trainer, int], None]:
    """`update(trainer, step)`: one update whose gradient depends on the step."""

    def once(trainer: Trainer, step: int) -> None:
        for group in trainer.groups:
            group.gradients.copy_(torch.randn(group.values.shape, generator=torch.Generator().manual_seed(step)))
        trainer.update_weights(step, trainer.clip(), [])

    return once
