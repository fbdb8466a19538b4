"""The end of a run: the files beside the LoRA, and the last words."""

from __future__ import annotations

import time
from collections.abc import Sequence

from library.config.resolved import save_resolved
from library.lora_files.sidecars import card, save_card
from library.models.base import DiffusionModel
from library.training.loop import Span
from library.training.observers import Observers, log_folder
from library.training.run import Run
from library.training.summary import Outcome, tell


def begin_folder(run: Run) -> None:
    """The output folder with the configuration that reproduces the run."""
    if run.is_main:
        run.folder.mkdir(parents=True, exist_ok=True)
        save_resolved(run.config, run.folder / f"{run.config.saving.output_name}.config.toml")


def finish(run: Run, model: DiffusionModel, span: Span, observers: Observers, warnings: Sequence[str]) -> None:
    """Write the LoRA's card and tell where everything is."""
    if not run.is_main:
        return
    saving = run.config.saving
    triggers = run.config.data.trigger_word
    notes = f"{span.last_step} steps on {run.config.model.pretrained_model_name_or_path}, trained with LoRA Dojo"
    save_card(observers.saver.file, card(model.family, triggers, saving.metadata_description or "", notes=notes))
    state = run.folder / f"{saving.output_name}-state"
    outcome = Outcome(
        lora=observers.saver.file,
        state=state if state.is_dir() else None,
        samples=observers.preview.folder if observers.preview else None,
        comparison=observers.preview.comparison if observers.preview else None,
        log=log_folder(run).parent.parent if run.config.logging.log_with == "tensorboard" else None,
        config=run.folder / f"{saving.output_name}.config.toml",
        triggers=[triggers] if triggers else [],
        base_model=run.config.model.pretrained_model_name_or_path,
        steps=span.last_step - span.first_step,
        loss=observers.log.average,
        validation=observers.validation.history if observers.validation else [],
        seconds=time.time() - run.now,
    )
    run.say(tell(outcome))
    run.tell_all([f"warning: {warning}" for warning in warnings])
