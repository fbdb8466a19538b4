"""What the LoRA files of a run say of it."""

from __future__ import annotations

import time

from library.data.dataset import TrainingData
from library.data.summary import summary
from library.lora_files.metadata import RunFacts, lora_metadata, trigger_words
from library.training.loop import Span
from library.training.run import Run
from library.training.step import Trainer


def describe_run(run: Run, data: TrainingData, trainer: Trainer, span: Span, step: int, epoch: int) -> dict[str, str]:
    """Metadata of a LoRA file saved after `step` updates and `epoch` whole epochs."""
    training = run.config.training
    facts = RunFacts(
        family=trainer.model.family,
        predicts_v=trainer.model.process.prediction == "v",
        seed=run.seed,
        session_id=int(run.started_at * 1000) % 2**32,
        started_at=run.started_at,
        finished_at=time.time(),
        steps=step,
        epoch=epoch,
        max_train_steps=span.last_step,
        num_epochs=span.epochs,
        num_batches_per_epoch=span.updates_per_epoch * span.accumulation,
        total_batch_size=run.config.buckets.train_batch_size * run.processes * training.gradient_accumulation_steps,
    )
    return lora_metadata(run.config, facts, trainer.model.metadata(), trainer.network.metadata(), summary(data))


def triggers_of(run: Run, data: TrainingData) -> str:
    """The words that call the LoRA, "" when none is known."""
    return trigger_words(run.config.data.trigger_word, summary(data)["ss_tag_frequency"])
