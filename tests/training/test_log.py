"""What is written for TensorBoard, and what processes tell one another for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from library.training.log import Board, Log
from library.training.loop import Span, StepReport

CPU = torch.device("cpu")
SPAN = Span(0, 5, updates_per_epoch=2, accumulation=2)
LOSSES = [4.0, 2.0, 1.0, 3.0, 8.0]


def report(step: int, losses: Sequence[Tensor], size: int = 2, **more: Any) -> StepReport:
    return StepReport(
        step=step,
        epoch=(step - 1) // SPAN.updates_per_epoch + 1,
        ends_epoch=step % SPAN.updates_per_epoch == 0,
        losses=list(losses),
        global_size=size,
        gradient_norm=torch.tensor(0.5 * step),
        rates={"unet": 1e-4 * step, "textencoder": 1e-5 * step},
        seconds=0.25,
        data_seconds=0.01,
        **more,
    )


def passes(mean: float) -> list[Tensor]:
    """Two passes with one sample each, whose mean is `mean`."""
    return [torch.tensor([mean - 0.5]), torch.tensor([mean + 0.5])]


def written(folder: Path, every: int = 1, **more: Any) -> EventAccumulator:
    log = Log(Board(folder), SPAN, every=every, processes=1, device=CPU, bar=False)
    log.before_training(0)
    for step, loss in enumerate(LOSSES, start=1):
        log.after_step(report(step, passes(loss), **more))
    log.after_training(5)
    return EventAccumulator(str(folder)).Reload()


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    return {point.step: point.value for point in events.Scalars(tag)}


def test_curves(tmp_path: Path) -> None:
    events = written(tmp_path)
    expected = {
        "loss/current": dict(enumerate(LOSSES, start=1)),
        "loss/average": {1: 4.0, 2: 3.0, 3: 1.5, 4: 2.0, 5: 5.5},
        "loss/epoch_average": {1: 3.0, 2: 2.0},
        "lr/unet": {step: 1e-4 * step for step in range(1, 6)},
        "lr/textencoder": {step: 1e-5 * step for step in range(1, 6)},
        "norm/grad_norm": {step: 0.5 * step for step in range(1, 6)},
        "speed/steps_per_second": dict.fromkeys(range(1, 6), 4.0),
        "speed/waiting_for_data": dict.fromkeys(range(1, 6), 0.01),
    }
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, points in expected.items():
        assert curve(events, tag) == pytest.approx(points), tag


def test_limited_norms_have_curves_too(tmp_path: Path) -> None:
    events = written(tmp_path, norms={"keys_scaled": 3.0})
    assert curve(events, "max_norm/keys_scaled") == dict.fromkeys(range(1, 6), 3.0)


def test_every_n_steps_thins_the_curves_but_not_the_averages(tmp_path: Path) -> None:
    events = written(tmp_path, every=2)
    assert curve(events, "loss/current") == pytest.approx({2: 2.0, 4: 3.0})
    assert curve(events, "loss/average") == pytest.approx({2: 3.0, 4: 2.0})
    assert curve(events, "loss/epoch_average") == pytest.approx({1: 3.0, 2: 2.0})


def test_pictures_and_texts(tmp_path: Path) -> None:
    board = Board(tmp_path)
    picture = Image.fromarray(np.full((6, 8, 3), (10, 200, 30), dtype=np.uint8))
    board.image("sample/00", picture, 3)
    board.text("config", "**bold**")
    board.flush()
    events = EventAccumulator(str(tmp_path)).Reload()
    (image,) = events.Images("sample/00")
    assert (image.step, image.width, image.height) == (3, 8, 6)
    assert events.Tags()["tensors"] == ["config/text_summary"]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    board = Board(None)
    board.scalars({"loss": 1.0}, 1)
    board.image("sample", Image.new("RGB", (2, 2)), 1)
    board.text("config", "text")
    board.flush()
    assert list(tmp_path.iterdir()) == []


def test_the_average_is_over_the_last_epoch() -> None:
    log = Log(Board(None), SPAN, every=1, processes=1, device=CPU, bar=False)
    assert math.isnan(log.average)
    log.before_training(0)
    for step, loss in enumerate(LOSSES, start=1):
        log.after_step(report(step, passes(loss)))
    log.after_training(5)
    assert log.average == pytest.approx((3.0 + 8.0) / 2)


def test_a_process_without_samples_adds_nothing_to_the_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process has losses of 3 and 5; the mean is over the samples of both."""
    mine: list[float] = []

    def all_reduce(tensor: Tensor) -> None:
        mine.append(tensor.item())
        tensor += 8.0

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    log = Log(Board(tmp_path), SPAN, every=1, processes=2, device=CPU, bar=False)
    log.before_training(0)
    log.after_step(report(1, [], size=2))
    log.after_step(report(2, [torch.tensor([2.0, 6.0])], size=4))
    log.after_training(2)
    assert mine == [0.0, 8.0]
    assert curve(EventAccumulator(str(tmp_path)).Reload(), "loss/current") == {1: 4.0, 2: 4.0}


@pytest.mark.parametrize("losses", [[], [torch.ones(2, device="meta")]])
def test_what_is_summed_over_the_processes_lies_on_the_device(
    monkeypatch: pytest.MonkeyPatch, losses: list[Tensor]
) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr(torch.distributed, "all_reduce", seen.append)
    log = Log(Board(None), SPAN, every=1, processes=2, device=torch.device("meta"), bar=False)
    log.after_step(report(1, losses))
    assert [(tensor.device.type, tuple(tensor.shape), tensor.dtype) for tensor in seen] == [("meta", (), torch.float32)]


def test_logging_leaves_the_losses_as_they_are() -> None:
    losses = [torch.tensor([1.0, 2.0])]
    log = Log(Board(None), SPAN, every=1, processes=1, device=CPU, bar=False)
    log.before_training(0)
    log.after_step(report(1, losses))
    log.after_training(1)
    assert torch.equal(losses[0], torch.tensor([1.0, 2.0]))
