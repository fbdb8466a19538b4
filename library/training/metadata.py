"""What the LoRA files of a run say of it."""

from __future__ import annotations

import time
from dataclasses import replace

from library.data.dataset import TrainingData
from library.data.summary import summary
from library.lora_files.metadata import RunFacts, lora_metadata
from library.training.loop import Span
from library.training.run import Run
from library.training.step import Trainer


def describe_run(run: Run, data: TrainingData, trainer: Trainer, span: Span, step: int, epoch: int) -> dict[str, str]:
    """Metadata of a LoRA file saved after `step` updates and `epoch` whole epochs."""
    training, sizes = run.config.training, data.material.datasets[0].buckets
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
        total_batch_size=sizes.train_batch_size * run.processes * training.gradient_accumulation_steps,
    )
    config = replace(run.config, buckets=sizes)  # dataset tables may say otherwise than the main configuration
    return lora_metadata(config, facts, trainer.model.metadata(), trainer.network.metadata(), summary(data))
