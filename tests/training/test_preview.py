"""Sample pictures: when, under which names, and that a failure never ends a run."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from library.core.memory import give_back_memory
from library.core.readback import Readback
from library.inference.requests import SampleRequest
from library.training.interval import Interval
from library.training.log import Board
from library.training.loop import StepReport
from library.training.preview import Preview

REQUESTS = [SampleRequest("hero", seed=3), SampleRequest("villain", seed=4)]


def report(step: int) -> StepReport:
    """With two updates an epoch."""
    return StepReport(
        step=step,
        epoch=(step + 1) // 2,
        ends_epoch=step % 2 == 0,
        figures=Readback({}),
        global_size=1,
    )


def paint(requests: Sequence[SampleRequest]) -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), (request.seed, 0, 0)) for request in requests]


@pytest.fixture
def preview(tmp_path: Path, new_trainer: Callable[..., Any]) -> Callable[..., Preview]:
    """Runs four updates with previews."""

    def run(steps: int | None = None, epochs: int | None = None, rank: int = 0, **more: Any) -> Preview:
        waited: list[None] = []
        made = Preview(
            trainer=new_trainer(rank=rank),
            requests=REQUESTS,
            interval=Interval(steps, epochs),
            folder=tmp_path / "sample",
            name="hero",
            board=Board(None),
            wait_for_everyone=lambda: waited.append(None),
            **{"paint": paint, "at_first": False} | more,
        )
        made.before_training(0)
        for step in range(1, 5):
            made.after_step(report(step))
        made.after_training(4)
        made.waited = len(waited)  # type: ignore[attr-defined]
        return made

    return run


def stamps(folder: Path) -> list[str]:
    """`000002_00_3` of `hero_000002_00_20260101120000_3.png`."""
    parts = [path.stem.removeprefix("hero_").split("_") for path in folder.iterdir()]
    return sorted(f"{when}_{number}_{seed}" for when, number, _, seed in parts)


def both(*when: str) -> list[str]:
    return [f"{each}_{number}" for each in when for number in ("00_3", "01_4")]


@pytest.mark.parametrize(
    ("settings", "when"),
    [
        ({"steps": 2}, ["000002", "000004"]),
        ({"steps": 3}, ["000003", "000004"]),
        ({"epochs": 1}, ["e000001", "e000002"]),
        ({"epochs": 2, "at_first": True}, ["000000", "e000002"]),
        ({}, ["000004"]),
    ],
)
def test_pictures_have_the_names_of_sd_scripts(preview, settings: dict[str, Any], when: list[str]) -> None:
    assert stamps(preview(**settings).folder) == both(*when)


def test_before_and_after_stands_beside_the_lora(preview, tmp_path: Path) -> None:
    made = preview(steps=2)
    assert made.comparison == tmp_path / "hero.before_after.png"
    with Image.open(made.comparison) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * 256
    with Image.open(tmp_path / "hero.preview.png") as picture:
        assert picture.getpixel((0, 0)) == (3, 0, 0)


def fail(requests: Sequence[SampleRequest]) -> list[Image.Image]:
    raise RuntimeError("no picture")


def test_a_failure_is_told_and_training_goes_on(preview, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dojo"):
        made = preview(steps=2, paint=fail)
    assert "training goes on: RuntimeError: no picture" in caplog.text
    assert not made.folder.exists()
    assert not made.comparison.exists()
    assert made.trainer.network.training, "the network is back in training mode"


def test_out_of_memory_is_told_in_a_line_and_given_back(
    preview, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the failed attempt held, in a cycle too, is free before training goes on."""
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def starve(requests: Sequence[SampleRequest]) -> list[Image.Image]:
        latents = torch.zeros(8)
        latents.itself = latents  # type: ignore[attr-defined]
        held.append(weakref.ref(latents))
        torch.empty(1 << 60, dtype=torch.uint8)
        return []

    def given_back() -> None:
        give_back_memory()
        alive.append(held[-1]() is not None)

    monkeypatch.setattr("library.training.preview.give_back_memory", given_back)
    with caplog.at_level(logging.WARNING, logger="dojo"):
        preview(steps=2, paint=starve)
    assert alive == [False, False]
    (told, _) = (record for record in caplog.records)
    assert "training goes on: out of memory (1073741824.0 GiB more were asked for" in told.getMessage()
    assert told.exc_info is None or told.exc_info == (None, None, None)


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("on_main", [paint, fail])
def test_other_processes_paint_nothing_and_wait_as_often(preview, steps: int, on_main: Any) -> None:
    main, other = preview(steps=steps, paint=on_main), preview(steps=steps, rank=1, paint=None)
    assert other.waited == main.waited
    assert other.latest is None
