"""The end of a run: the files beside the LoRA, and the last words."""

from __future__ import annotations

import time
from collections.abc import Sequence

from library.config.resolved import save_resolved
from library.core.errors import Exit
from library.lora_files.sidecars import card, save_card
from library.models.base import DiffusionModel
from library.models.description import shown_name
from library.training.loop import Ending, Span
from library.training.observers import Observers, log_folder
from library.training.run import Run
from library.training.state.saving import checkpoint_name
from library.training.summary import Outcome, tell

NO_STATES = (
    "notice: no state is saved along the way, so a run that is killed or loses its machine starts over. save_state = true with "
    "save_every_n_steps or save_every_n_epochs saves one at intervals; Ctrl-C, SIGTERM and max_train_time save one in any case."
)


def begin_folder(run: Run) -> None:
    """The output folder with the configuration that reproduces the run; says where nothing could be resumed."""
    saving = run.config.saving
    if not (
        saving.save_state and (saving.save_every_n_steps or saving.save_every_n_epochs or saving.save_n_epoch_ratio)
    ):
        run.say(NO_STATES)
    if run.is_main:
        run.folder.mkdir(parents=True, exist_ok=True)
        save_resolved(run.as_written, run.folder / f"{run.config.saving.output_name}.config.toml")


def finish(
    run: Run, model: DiffusionModel, span: Span, ending: Ending, observers: Observers, warnings: Sequence[str]
) -> int:
    """Write the LoRA's card and tell where everything is, or how to continue; returns the exit status."""
    if (spikes := observers.log.spikes.summary()) is not None:
        run.say(spikes)
    if run.is_main and ending.status == Exit.COMPLETE:
        _tell_outcome(run, model, span, observers, warnings)
    elif run.is_main:
        asked = "its time is up (max_train_time)" if ending.status == Exit.TIME_UP else "it was asked to stop"
        state = run.folder / f"{checkpoint_name(run.config.saving.output_name, 'step', ending.step)}-state"
        run.say(
            f"\nStopped after step {ending.step} of {span.last_step}, as {asked}. Everything is saved: the same command with "
            f"--resume latest continues bitwise where it stopped{f' ({state})' if state.is_dir() else ''}."
        )
    return ending.status


def _tell_outcome(run: Run, model: DiffusionModel, span: Span, observers: Observers, warnings: Sequence[str]) -> None:
    saving = run.config.saving
    triggers, base_model = run.config.data.trigger_word, run.as_written.model.pretrained_model_name_or_path
    notes = f"{span.last_step} steps on {shown_name(base_model)}, trained with LoRA Dojo"
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
        base_model=base_model,
        steps=span.last_step - span.first_step,
        loss=observers.log.average,
        validation=observers.validation.history if observers.validation else [],
        seconds=time.time() - run.now,
    )
    run.say(tell(outcome))
    run.tell_all([f"warning: {warning}" for warning in warnings])
