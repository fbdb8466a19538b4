"""What is written for TensorBoard, and what processes tell one another for it."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from library.core.readback import Readback
from library.training.log import Board, Log
from library.training.loop import Span, StepReport

LAG = 2
SPAN = Span(0, 5, updates_per_epoch=2, accumulation=2)
LOSSES = [4.0, 2.0, 1.0, 3.0, 8.0]


def report(step: int, mean_loss: float, size: int = 2, **norms: float) -> StepReport:
    return StepReport(
        step=step,
        epoch=(step - 1) // SPAN.updates_per_epoch + 1,
        ends_epoch=step % SPAN.updates_per_epoch == 0,
        figures=Readback(
            {"loss": torch.tensor(mean_loss * size), "gradient_norm": torch.tensor(0.5 * step), "broken": 0.0, **norms}
        ),
        global_size=size,
        rates={"unet": 1e-4 * step, "textencoder": 1e-5 * step},
        seconds=0.25,
        data_seconds=0.01,
    )


def written(folder: Path, every: int = 1, **norms: float) -> EventAccumulator:
    log = Log(Board(folder), SPAN, every=every, bar=False, lag=LAG)
    log.before_training(0)
    for step, loss in enumerate(LOSSES, start=1):
        log.after_step(report(step, loss, **norms))
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
    events = written(tmp_path, keys_scaled=3.0, average_norm=0.5, maximum_norm=1.0)
    for tag, value in {"max_norm/keys_scaled": 3.0, "norm/avg_key_norm": 0.5, "max_norm/max_key_norm": 1.0}.items():
        assert curve(events, tag) == dict.fromkeys(range(1, 6), value)


def test_rates_that_the_optimizer_finds_stand_beside_those_it_is_given(tmp_path: Path) -> None:
    log = Log(Board(tmp_path), SPAN, every=1, bar=False, lag=LAG)
    log.before_training(0)
    log.after_step(replace(report(1, 1.0), scheduled={"unet": 1.0, "textencoder": 0.5}))
    log.after_training(1)
    events = EventAccumulator(str(tmp_path)).Reload()
    expected = {"lr/unet": 1.0, "lr/textencoder": 0.5, "lr/d*lr/unet": 1e-4, "lr/d*lr/textencoder": 1e-5}
    assert {tag: curve(events, tag)[1] for tag in expected} == pytest.approx(expected)


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
    log = Log(Board(None), SPAN, every=1, bar=False, lag=LAG)
    assert math.isnan(log.average)
    log.before_training(0)
    for step, loss in enumerate(LOSSES, start=1):
        log.after_step(report(step, loss))
    log.after_training(5)
    assert log.average == pytest.approx((3.0 + 8.0) / 2)


@pytest.mark.parametrize("lag", [0, LAG])
def test_a_step_is_asked_for_its_figures_some_steps_later(lag: int) -> None:
    asked: list[int] = []

    class Watched(Readback):
        def __init__(self, step: int) -> None:
            super().__init__({"loss": 1.0, "gradient_norm": 1.0, "broken": 0.0})
            self.step = step

        def values(self) -> dict[str, float]:
            asked.append(self.step)
            return super().values()

    log = Log(Board(None), SPAN, every=1, bar=False, lag=lag)
    log.before_training(0)
    for step in range(1, 6):
        log.after_step(replace(report(step, 1.0), figures=Watched(step)))
        assert asked == list(range(1, step - lag + 1))
    log.after_training(5)
    assert asked == [1, 2, 3, 4, 5]


def test_an_update_without_samples_has_no_loss(tmp_path: Path) -> None:
    log = Log(Board(tmp_path), SPAN, every=1, bar=False, lag=LAG)
    log.before_training(0)
    log.after_step(report(1, 0.0, size=0))
    log.after_training(1)
    assert curve(EventAccumulator(str(tmp_path)).Reload(), "loss/current") == {1: 0.0}


def test_a_run_that_breaks_off_is_written_to_its_last_step(tmp_path: Path) -> None:
    def train(log: Log) -> None:
        log.before_training(0)
        for step in (1, 2, 3):
            log.after_step(report(step, LOSSES[step - 1]))
        raise KeyboardInterrupt

    log = Log(Board(tmp_path), SPAN, every=1, bar=False, lag=LAG)
    with pytest.raises(KeyboardInterrupt), closing(log):
        train(log)
    found = curve(EventAccumulator(str(tmp_path)).Reload(), "loss/current")
    assert found == {1: 4.0, 2: 2.0, 3: 1.0}


def test_a_broken_loss_is_in_no_average(tmp_path: Path) -> None:
    log = Log(Board(tmp_path), SPAN, every=1, bar=False, lag=0)
    log.before_training(0)
    for step, loss in enumerate((2.0, math.nan, math.inf, 4.0), start=1):
        log.after_step(report(step, loss))
    log.after_training(4)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert log.average == 3.0
    assert curve(events, "loss/average") == {1: 2.0, 2: 2.0, 3: 2.0, 4: 3.0}
    assert curve(events, "loss/epoch_average") == {1: 2.0, 2: 4.0}


def test_a_spike_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(Board(tmp_path), replace(SPAN, last_step=130), every=50, bar=False, lag=LAG)
    log.before_training(0)
    pictures = SimpleNamespace(images=["a.png"], timesteps=torch.tensor([31]))
    for step in range(1, 131):
        log.after_step(replace(report(step, 9.0 if step == 120 else 0.1 + step / 1000), batches=[pictures]))
    log.after_training(130)
    assert curve(EventAccumulator(str(tmp_path)).Reload(), "loss/spike") == {120: 9.0}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("step 120: the loss is 9, where 0.16 is usual.")
    assert said[0].endswith("a.png at timestep 31.")
