"""Sample pictures during the run, and the picture of before and after at its end. A failure here never ends a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from library.core.errors import UserError
from library.core.memory import amounts, give_back_memory, is_out_of_memory
from library.core.signals import BrokenOff
from library.inference.requests import SampleRequest
from library.inference.sheet import before_and_after
from library.lora_files.sidecars import save_picture, save_preview
from library.training.interval import Interval
from library.training.log import Board
from library.training.loop import StepReport
from library.training.step import Trainer

log = logging.getLogger("dojo")

Paint = Callable[[Sequence[SampleRequest]], list[Image.Image]]
"""Generates the pictures of these requests with the model as it is."""


@dataclass
class Preview:
    """Samples on the main process while the others wait."""

    trainer: Trainer
    paint: Paint
    requests: Sequence[SampleRequest]
    interval: Interval
    at_first: bool
    folder: Path
    name: str
    board: Board
    wait_for_everyone: Callable[[], None]
    breaking_off: Callable[[], AbstractContextManager[None]] = nullcontext
    """While it is open, a request to stop the run raises `BrokenOff`."""
    sampled_at: int | None = None
    """Step of the last attempt, on every process."""
    latest: tuple[int, list[Image.Image]] | None = None
    """Step and pictures of the last success, on the main process."""

    @property
    def comparison(self) -> Path:
        """The picture of before and after."""
        return self.folder.parent / f"{self.name}.before_after.png"

    def before_training(self, step: int) -> None:
        if self.at_first and step == 0:
            self._sample(0, f"{0:06d}")

    def after_step(self, report: StepReport) -> None:
        if self.interval.by_epochs(report):
            self._sample(report.step, f"e{report.epoch:06d}")
        elif self.interval.by_steps(report):
            self._sample(report.step, f"{report.step:06d}")

    def after_training(self, step: int) -> None:
        if self.sampled_at != step:
            self._sample(step, f"{step:06d}")
        self._compare(step)

    def before_stop(self, step: int) -> None:
        """Pictures are made when the run has come to its end."""

    def _sample(self, step: int, when: str) -> None:
        self.sampled_at = step
        self._on_main(lambda: self._save(step, when, self._paint(self.trainer.network.enabled(True))))

    def _compare(self, step: int) -> None:
        """`name.before_after.png` and, for LoRA managers, `name.preview.png`."""

        def compose() -> None:
            if self.latest is None or self.latest[0] != step:
                return
            before = self._paint(self.trainer.network.enabled(False))
            after = self.latest[1]
            prompts = [request.prompt for request in self.requests]
            sheet = before_and_after(before, after, prompts)
            save_picture(sheet, self.comparison)
            save_preview(self.folder.parent / f"{self.name}.safetensors", after[0])

        self._on_main(compose)

    def _paint(self, state: AbstractContextManager[None]) -> list[Image.Image]:
        with self.trainer.evaluation(), state, self.breaking_off():  # innermost: weights are put back undisturbed
            return self.paint(self.requests)

    def _save(self, step: int, when: str, pictures: list[Image.Image]) -> None:
        stamp = time.strftime("%Y%m%d%H%M%S")
        for index, (request, picture) in enumerate(zip(self.requests, pictures)):
            save_picture(picture, self.folder / f"{self.name}_{when}_{index:02d}_{stamp}_{request.seed}.png")
            self.board.image(f"sample/{index:02d}", picture, step)
        self.latest = (step, pictures)

    def _on_main(self, action: Callable[[], None]) -> None:
        if self.trainer.rank == 0:
            failed = False
            try:
                action()
            except BrokenOff:
                log.warning("sampling was broken off, as the run is asked to stop.")
            except Exception as error:
                failed = True
                _tell(error)
            if failed:
                give_back_memory()
        self.wait_for_everyone()


def _tell(error: Exception) -> None:
    if is_out_of_memory(error):
        log.warning(
            "sampling failed, training goes on: out of memory (%s). Smaller pictures (--w and --h in sample_prompts) take less.",
            amounts(error),
        )
    else:
        unexpected = not isinstance(error, UserError)
        log.warning("sampling failed, training goes on: %s: %s", type(error).__name__, error, exc_info=unexpected)
