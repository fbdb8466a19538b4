"""When a run's passes are captured, and what the run says when they are not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from library.config.schema import Config, OptimizerConfig
from library.core.errors import UserError
from library.data.plan import Bucket
from library.training import trainer as module
from library.training.batch import Batch
from library.training.step import Trainer
from library.training.trainer import captured_passes, rates_of

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def run_on(device: torch.device, **training: int) -> Any:
    settings = {"cuda_graphs": True, "gradient_checkpointing": False, "gradient_accumulation_steps": 1}
    config = SimpleNamespace(
        training=SimpleNamespace(**settings | training),
        model=SimpleNamespace(blocks_to_swap=None),
    )
    return SimpleNamespace(config=config, device=device, processes=1)


def plan_of(*buckets: tuple[tuple[int, int], int, int]) -> Any:
    """Data whose buckets have this size in pixels, this many entries a global batch, and this many entries."""
    none = np.zeros(0)
    listed = [Bucket(0, size, batch, none, none, entries) for size, batch, entries in buckets]
    return SimpleNamespace(plan=SimpleNamespace(buckets=listed))


@pytest.fixture
def trainer(new_trainer: Callable[..., Trainer]) -> Trainer:
    built = new_trainer()
    built.network.capturable = built.network.draws_random = True
    built.model.latents = SimpleNamespace(stride=8)
    return built


@pytest.mark.parametrize(
    ("device", "training", "level", "said"),
    [
        (CPU, {}, logging.INFO, "this run is on 'cpu'"),
        (CUDA, {"gradient_checkpointing": True}, logging.WARNING, "(dropout) cannot be recorded together with"),
        (CUDA, {"cuda_graphs": False}, None, ""),
    ],
)
def test_a_run_without_says_why(
    trainer: Trainer,
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    training: dict[str, bool],
    level: int | None,
    said: str,
) -> None:
    with caplog.at_level(logging.INFO, logger="dojo"):
        assert captured_passes(run_on(device, **training), trainer, plan_of()) is None
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_a_batch_is_filled_up_to_the_fullest_of_its_bucket(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch, random_batch: Callable[..., Batch]
) -> None:
    """Two passes an update: a bucket of 8 entries a batch has 4 in a pass, and one with a single picture never more than 1."""
    seen: list[int] = []

    def add_gradient(batch: Batch, global_size: Tensor) -> Tensor:
        seen.append(len(batch.weight))
        return torch.zeros(len(batch.weight))

    recorder = SimpleNamespace(warm_up=lambda work, strict: work())
    monkeypatch.setattr(module, "CudaRecorder", lambda device: recorder)
    trainer.add_gradient = add_gradient  # type: ignore[method-assign]
    data = plan_of(((64, 128), 8, 30), ((64, 64), 8, 1), ((128, 128), 8, 3))
    found = captured_passes(run_on(CUDA, gradient_accumulation_steps=2), trainer, data)
    assert found is not None
    for height, width, size in [(16, 8, 3), (8, 8, 1), (16, 16, 1)]:
        assert len(found(random_batch(0, size=size, height=height, width=width), seed=0)) == size
    assert seen == [4, 1, 2]


def test_one_rate_given_twice_serves_a_model_with_one_text_encoder() -> None:
    """GUIs write `text_encoder_lr` for two encoders whatever the model; other rates than one there is no telling apart."""

    def rates(*given: float) -> dict[str, float]:
        config = Config(optimizer=OptimizerConfig(unet_lr=1e-4, text_encoder_lr=list(given)))
        return dict(rates_of(config, ["unet", "te1"]).by_host)

    assert rates(5e-5, 5e-5) == rates(5e-5) == {"te1": 5e-5, "unet": 1e-4}
    with pytest.raises(UserError, match="text_encoder_lr has 2 values"):
        rates(5e-5, 1e-5)


@pytest.mark.parametrize("hosts", [["unet"], ["unet", "te1"]])
def test_nothing_left_to_train_is_told(hosts: list[str]) -> None:
    config = Config(optimizer=OptimizerConfig(unet_lr=0.0, text_encoder_lr=[0.0]))
    with pytest.raises(UserError, match="nothing would be trained"):
        rates_of(config, hosts)
