"""A small training that every optimizer can do: tensors pulled towards random targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from library.config.schema.training import OptimizerConfig
from library.optim.flat import FlatGroup, flatten
from library.optim.optimizers import Optimizer, build_optimizer

SHAPES = {"unet": [(16, 300), (300, 16), (16, 32, 3, 3)], "textencoder": [(5, 1000)]}
"""Each of at least 4,096 elements, from which on bitsandbytes keeps 8-bit state; some fill their last block, some do not."""


@dataclass(frozen=True)
class Group:
    name: str
    parameters: list[nn.Parameter]
    lr: float


@dataclass
class Run:
    """Parameters, their optimizer, and a schedule that moves."""

    groups: list[FlatGroup]
    optimizer: Optimizer

    def train(self, first: int, count: int) -> None:
        for step in range(first, first + count):
            self.accumulate(step)
            self.optimizer.set_factor(1 - 0.01 * step)
            self.optimizer.step()

    def accumulate(self, step: int) -> None:
        generator = torch.Generator().manual_seed(1000 + step)
        for group in self.groups:
            group.zero_grad()
            for parameter in group.parameters:
                (parameter - torch.randn(parameter.shape, generator=generator)).square().sum().backward()


def usual_rate(name: str) -> float:
    return 1.0 if name.startswith(("DAdapt", "Prodigy")) else 1e-3


def new_parameters(seed: int = 0) -> dict[str, list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for name, shapes in SHAPES.items()
    }


@pytest.fixture
def new_run() -> Callable[..., Run]:
    """Builds a run: optimizer_type, its arguments, learning rate, seed of the first values."""

    def build(name: str, arguments: dict[str, Any] | None = None, lr: float | None = None, seed: int = 0) -> Run:
        rate = usual_rate(name) if lr is None else lr
        groups = flatten(Group(group, parameters, rate) for group, parameters in new_parameters(seed).items())
        return Run(
            groups, build_optimizer(OptimizerConfig(optimizer_type=name, optimizer_args=arguments or {}), groups)
        )

    return build
