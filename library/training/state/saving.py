"""Saves LoRA files and states at intervals, and removes those that need not be kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from library.config.schema import SavingConfig
from library.core.files import remove_folder
from library.lora_files.file import save_lora
from library.training.interval import save_interval
from library.training.loop import Span, StepReport
from library.training.state.background import BackgroundWriter
from library.training.state.checkpoint import Position, save_state
from library.training.state.names import STATE, Unit, checkpoint_name, numbered
from library.training.state.snapshot import require_finite
from library.training.step import Trainer

log = logging.getLogger("dojo")

VALUES_A_STATE = 5
"""LoRA file, weights, two moments, average: the values that a save writes for each trained one, at most."""

SLOW_START, SLOW_DISK = 5.0, 30e6
"""Seconds, and bytes a second, of a slow disk."""

PRECISIONS = {None: torch.float32, "float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Saver:
    """Writes on the main process, in the background, from copies: the next steps do not wait for the disk."""

    trainer: Trainer
    config: SavingConfig
    span: Span
    describe: Callable[[int, int], dict[str, str]]
    """(steps, epochs done) -> metadata of the LoRA file."""
    position: Callable[[int], Position]
    """steps done -> where the run stands."""
    wait_for_everyone: Callable[[], None]

    def __post_init__(self) -> None:
        self.interval = save_interval(self.config, self.span)
        self.folder = Path(self.config.output_dir)
        self.writer = BackgroundWriter()
        self._state_at: int | None = None

    def before_training(self, step: int) -> None:
        """Nothing is saved before the first step."""

    def after_step(self, report: StepReport) -> None:
        self.writer.check()
        if report.step == self.span.last_step:
            return
        due: list[tuple[Unit, int]] = []
        if self.interval.by_epochs(report):
            due.append(("epoch", report.epoch))
        if self.interval.by_steps(report):
            due.append(("step", report.step))
        for unit, number in due:
            name = checkpoint_name(self.config.output_name, unit, number)
            self._save(name, report.step, self.config.save_state, partial(self._prune, unit, number))

    def after_training(self, step: int) -> None:
        self._save(self.config.output_name, step, self.config.save_state or self.config.save_state_on_train_end)
        self._finish()

    def before_stop(self, step: int) -> None:
        """The state too, whatever the settings say of states: the run is to be continued."""
        if self._state_at != step:
            self._save(checkpoint_name(self.config.output_name, "step", step), step, with_state=True)
        self._finish()

    def close(self) -> None:
        """Wait for what is being written; also where a run ends by an error.

        Raises:
            UserError: it could not be written.
        """
        self.writer.finish()

    @property
    def file(self) -> Path:
        """The final LoRA file."""
        return self.folder / f"{self.config.output_name}.safetensors"

    def seconds(self) -> float:
        """How long a save may take: the longest so far, or by the size."""
        size = VALUES_A_STATE * self.trainer.groups.values.nbytes
        return self.writer.longest or SLOW_START + size / SLOW_DISK

    def _save(self, name: str, step: int, with_state: bool, afterwards: Callable[[], None] | None = None) -> None:
        """Copy what is to be saved, on this thread, and let it be written.

        Raises:
            UserError: a weight, or what it was to be changed by, is not finite.
        """
        self.trainer.look_back()
        if with_state:
            self._state_at = step
        if self.trainer.rank > 0:
            if with_state:
                self.trainer.mark(step)
            return
        self.writer.make_room()
        snapshot = self.trainer.snapshot(step) if with_state else None
        if snapshot is None:
            require_finite(self.trainer.groups.values)
        dtype = PRECISIONS[self.config.save_precision]
        with self.trainer.evaluation():
            tensors = self.trainer.network.state_dict_to_save()
        if not all(bool(tensor.to(dtype).isfinite().all()) for tensor in tensors.values()):
            log.warning("%s: the weights are too large for save_precision, so they are saved in fp32.", name)
            dtype = torch.float32

        def write() -> None:
            metadata = self.describe(step, self.span.epochs_after(step))
            save_lora(self.folder / f"{name}.safetensors", tensors, metadata, dtype)
            if snapshot is not None:
                save_state(self.folder / f"{name}{STATE}", snapshot, self.position(step))
            if afterwards is not None:
                afterwards()

        self.writer.write(write)

    def _finish(self) -> None:
        """Nobody leaves before everything is written: a launcher ends the others when one process is gone."""
        self.writer.finish()
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
                _remove(path)
        if (keep_states := keep_states or keep) is not None:
            for path in self._older(unit, STATE, number - keep_states * (every or 1)):
                _remove(path)

    def _older(self, unit: Unit, ending: str, oldest: int) -> list[Path]:
        """Checkpoints of this name whose number is below what is kept. `oldest` is excluded for epochs, kept for steps."""
        pattern = numbered(self.config.output_name, unit, ending)
        found = [(path, pattern.fullmatch(path.name)) for path in self.folder.iterdir()]
        last_removed = oldest if unit == "epoch" else oldest - 1
        return [path for path, match in found if match and int(match.group(1)) <= last_removed]


def _remove(path: Path) -> None:
    """Another program may be reading it, which some systems do not allow: then it stays."""
    try:
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is no longer wanted, but cannot be removed: %s.", path, error)
