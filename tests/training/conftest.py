"""A trainer small enough to be saved and loaded in a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from library.config.schema.model import ModelConfig
from library.config.schema.network import NetworkConfig
from library.config.schema.training import LossConfig, OptimizerConfig
from library.core.readback import Readback
from library.diffusion.distance import build_distance
from library.diffusion.weighting import build_weighting
from library.models.base import DiffusionModel
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder
from library.optim.ema import ExponentialAverage
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer
from library.training.batch import Batch
from library.training.loop import StepReport
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from library.training.state.checkpoint import Position
from library.training.step import LAG, Trainer
from networks.base import ParameterGroup, Rates
from networks.build import build_network

KEY = "lora_unet_mid_block_attentions_0_proj_in"

CONFIG: dict[str, Any] = {
    "network_module": "networks.lora",
    "network_dim": 8,
    "network_args": {"conv_dim": 4},
    "optimizer_type": "AdamW",
    "learning_rate": 1e-4,
    "train_batch_size": 2,
    "seed": 7,
    "output_dir": "output",
    "max_train_steps": 100,
    "text_encoder_lr": None,
}
POSITION = Position(
    step=5,
    schedule_steps=100,
    seed=7,
    data="abc",
    model="def",
    config=CONFIG,
    started_at=1000.0,
    saved_at=1000.0,
    machine="CPU",
    network_weights="ghi",
)


def report_of(step: int, updates_per_epoch: int) -> StepReport:
    """What observers are told after so many updates, without figures."""
    return StepReport(
        step=step,
        epoch=(step - 1) // updates_per_epoch + 1,
        ends_epoch=step % updates_per_epoch == 0,
        figures=Readback({}),
        global_size=1,
    )


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5 with random weights, in the smallest size that has all its parts."""
    folder = tmp_path_factory.mktemp("model") / "sd15"
    write_folder(recipe("sd15", tiny=True), folder)
    return folder


def acting_trainer(
    model: DiffusionModel,
    network: dict[str, Any],
    optimizer: str = "AdamW",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    checkpointing: str | None = None,
) -> Trainer:
    """The whole step with a network that already acts; the same weights each time.

    Args:
        network: settings of it.
        device, dtype: of the model; the CPU without one.
    """
    device = device or torch.device("cpu")
    built = build_network(NetworkConfig(**network), model.hosts(["unet", "text_encoders"]), model.family, seed=3)
    if checkpointing is not None:
        model.enable_gradient_checkpointing(checkpointing == "selective", built.draws_random)
    groups = flatten(built.parameter_groups(Rates({"unet": 1e-2, "te1": 1e-3})))
    noise = torch.randn(groups.values.shape, generator=torch.Generator().manual_seed(5)).to(device)
    groups.values.add_(0.02 * noise * (groups.values == 0))
    distance, weighting = (make(LossConfig(), model.process) for make in (build_distance, build_weighting))
    return Trainer(
        model=model,
        network=built,
        objective=Objective(model, distance, weighting),
        groups=groups,
        optimizer=build_optimizer(OptimizerConfig(optimizer_type=optimizer), groups),
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


@pytest.fixture
def real_trainer(tiny_model: Path) -> Callable[..., Trainer]:
    """`real_trainer(**network settings)`: the whole step, with LoRA on a tiny Stable Diffusion 1.5.

    Every call gives the same weights; the LoRA already acts.
    """

    def build(optimizer: str = "AdamW", **network: Any) -> Trainer:
        config = ModelConfig(pretrained_model_name_or_path=str(tiny_model))
        model = load_model(config, torch.float32, torch.device("cpu"))
        return acting_trainer(model, {"network_module": "networks.lora", **network}, optimizer)

    return build


@pytest.fixture
def random_batch() -> Callable[..., Batch]:
    """`random_batch(step, size=2, height=8, width=8, **changed)`: a batch for the tiny model, with captions to be encoded."""

    def draw(step: int, size: int = 2, height: int = 8, width: int = 8, **changed: Any) -> Batch:
        generator = torch.Generator().manual_seed(100 + step)
        latents, noise = (torch.randn(size, 4, height, width, generator=generator) for _ in range(2))
        plain = Batch(
            latents=latents,
            noise=noise,
            corrupting_noise=noise,
            timesteps=torch.randint(0, 1000, (size,), generator=generator),
            geometry=torch.zeros(size, 6, dtype=torch.int64),
            weight=torch.rand(size, generator=generator) + 0.5,
            mask=None,
            conditioning=None,
            prompts=[f"a fighter number {step} {place}" for place in range(size)],
            images=[f"{place}.png" for place in range(size)],
            keeps_prior=None,
            multiplier=1.0,
            step=step,
            micro=0,
            epoch=0,
            global_size=size,
        )
        return replace(plain, **changed)

    return draw
