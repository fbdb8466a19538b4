"""When a run's passes are captured, and what the run says when they are not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from library.config.schema import Config, OptimizerConfig
from library.core.errors import UserError
from library.training import trainer as module
from library.training.graphs import CapturedPasses
from library.training.step import Trainer
from library.training.trainer import captured_passes, rates_of

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def run_on(device: torch.device, **training: bool) -> Any:
    config = SimpleNamespace(
        training=SimpleNamespace(**{"cuda_graphs": True, "gradient_checkpointing": False} | training),
        model=SimpleNamespace(blocks_to_swap=None),
    )
    return SimpleNamespace(config=config, device=device)


@pytest.fixture
def trainer(new_trainer: Callable[..., Trainer]) -> Trainer:
    built = new_trainer()
    built.network.capturable = built.network.draws_random = True
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
        assert captured_passes(run_on(device, **training), trainer) is None
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_the_batch_sizes_of_all_datasets_are_whole(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = [SimpleNamespace(buckets=SimpleNamespace(train_batch_size=size)) for size in (4, 1, 4)]
    monkeypatch.setattr(module, "resolve_datasets", lambda config: (datasets, []))
    monkeypatch.setattr(module, "CudaRecorder", lambda device: SimpleNamespace())
    found = captured_passes(run_on(CUDA), trainer)
    assert isinstance(found, CapturedPasses)
    assert found._batch_sizes == [1, 4]


def test_one_rate_given_twice_serves_a_model_with_one_text_encoder() -> None:
    """GUIs write `text_encoder_lr` for two encoders whatever the model; other rates than one there is no telling apart."""

    def rates(*given: float) -> dict[str, float]:
        config = Config(optimizer=OptimizerConfig(unet_lr=1e-4, text_encoder_lr=list(given)))
        return dict(rates_of(config, ["unet", "te1"]).by_host)

    assert rates(5e-5, 5e-5) == rates(5e-5) == {"te1": 5e-5, "unet": 1e-4}
    with pytest.raises(UserError, match="text_encoder_lr has 2 values"):
        rates(5e-5, 1e-5)
