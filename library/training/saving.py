"""Saves LoRA files and states at intervals, and removes those that need not be kept."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from library.config.schema import SavingConfig
from library.lora_files.file import save_lora
from library.training.checkpoint import Position, save_state
from library.training.interval import Interval
from library.training.loop import Span, StepReport
from library.training.step import Trainer

Unit = Literal["step", "epoch"]

PRECISIONS = {None: torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def checkpoint_name(name: str, unit: Unit, number: int) -> str:
    """sd-scripts' names: `name-000010` after an epoch, `name-step00000500` after a step."""
    return f"{name}-{number:06d}" if unit == "epoch" else f"{name}-step{number:08d}"


@dataclass
class Saver:
    """Writes on the main process; the others wait, so that no process runs ahead of a state."""

    trainer: Trainer
    config: SavingConfig
    span: Span
    describe: Callable[[int, int], dict[str, str]]
    """(steps, epochs done) -> metadata of the LoRA file."""
    position: Callable[[int], Position]
    """steps done -> where the run stands."""
    wait_for_everyone: Callable[[], None]

    def __post_init__(self) -> None:
        epochs = self.config.save_every_n_epochs
        if self.config.save_n_epoch_ratio is not None:
            epochs = max(1, self.span.epochs // self.config.save_n_epoch_ratio)
        self.interval = Interval(self.config.save_every_n_steps, epochs)
        self.folder = Path(self.config.output_dir)

    def before_training(self, step: int) -> None:
        """Nothing is saved before the first step."""

    def after_step(self, report: StepReport) -> None:
        if report.step == self.span.last_step:
            return
        due: list[tuple[Unit, int]] = []
        if self.interval.by_epochs(report):
            due.append(("epoch", report.epoch))
        if self.interval.by_steps(report):
            due.append(("step", report.step))
        for unit, number in due:
            self._save(checkpoint_name(self.config.output_name, unit, number), report.step, self.config.save_state)
            if self.trainer.rank == 0:
                self._prune(unit, number)

    def after_training(self, step: int) -> None:
        self._save(self.config.output_name, step, self.config.save_state or self.config.save_state_on_train_end)

    @property
    def file(self) -> Path:
        """The final LoRA file."""
        return self.folder / f"{self.config.output_name}.safetensors"

    def _save(self, name: str, step: int, with_state: bool) -> None:
        self.trainer.check_gradients()
        if self.trainer.rank == 0:
            with self.trainer.evaluation():
                tensors = self.trainer.network.state_dict_to_save()
            metadata = self.describe(step, self.span.epochs_after(step))
            save_lora(self.folder / f"{name}.safetensors", tensors, metadata, PRECISIONS[self.config.save_precision])
            if with_state:
                save_state(self.folder / f"{name}-state", self.trainer, self.position(step))
        self.wait_for_everyone()

    def _prune(self, unit: Unit, number: int) -> None:
        """Remove what is older than the last n epochs or steps."""
        config = self.config
        keep, keep_states, every = (
            (config.save_last_n_epochs, config.save_last_n_epochs_state, self.interval.epochs)
            if unit == "epoch"
            else (config.save_last_n_steps, config.save_last_n_steps_state, 1)
        )
        if keep is not None:
            for path in self._older(unit, ".safetensors", number - keep * (every or 1)):
                path.unlink()
        if (keep_states := keep_states or keep) is not None:
            for path in self._older(unit, "-state", number - keep_states * (every or 1)):
                shutil.rmtree(path)

    def _older(self, unit: Unit, ending: str, oldest: int) -> list[Path]:
        """Checkpoints of this name whose number is below what is kept. `oldest` is excluded for epochs, kept for steps."""
        digits = r"-(\d{6})" if unit == "epoch" else r"-step(\d{8})"
        pattern = re.compile(re.escape(self.config.output_name) + digits + re.escape(ending))
        found = [(path, pattern.fullmatch(path.name)) for path in self.folder.iterdir()]
        last_removed = oldest if unit == "epoch" else oldest - 1
        return [path for path, match in found if match and int(match.group(1)) <= last_removed]
