"""How long an update of a run took, noted for the next run that computes the same on the same machine.

A note is found by what is computed, operator by operator, so that no setting need be listed that changes it, and by those few
settings that change only how. Deleting notes is always safe.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from library.core.documents import DocumentError, parse_json
from library.core.durations import duration
from library.core.errors import UserError
from library.core.files import write_atomically
from library.core.hashing import digest
from library.core.terminal import harmless
from library.data.cache.keys import cache_folder
from library.training.loop import Span, StepReport
from library.training.needs.meta_run import ENCODING, STEP, MetaRun
from library.training.needs.work import Work
from library.training.run import Run

log = logging.getLogger("dojo")

WARM_UP, LEAST = 5, 20
"""Updates before the first that is timed, and how many must be timed for a note."""


@dataclass(frozen=True)
class Pace:
    """Of a run."""

    seconds: float
    """Of an update over a full batch of its largest size."""
    date: str
    """2026-11-22."""
    name: str
    """Its `output_name`."""

    @property
    def words(self) -> str:
        """Where it is from."""
        return f"measured on {self.date} in '{harmless(self.name)}'"


def noted_pace(run: Run, meta_run: MetaRun) -> Pace | None:
    """Of the last run here that computed the same; None where there was none."""
    try:
        found = parse_json(_note(run, meta_run).read_text(encoding="utf-8"))
        pace = Pace(float(found["seconds"]), str(found["date"]), str(found["name"]))
    except (OSError, UnicodeDecodeError, DocumentError, LookupError, TypeError, ValueError):
        return None
    return pace if 0 < pace.seconds < math.inf else None


def note_pace(run: Run, meta_run: MetaRun, seconds: float) -> None:
    """Keep the duration of an update for later runs."""
    pace = Pace(seconds, time.strftime("%Y-%m-%d"), run.config.saving.output_name)
    text = json.dumps(asdict(pace))
    try:
        write_atomically(_note(run, meta_run), lambda path: path.write_text(text, encoding="utf-8"))
    except UserError as error:  # a note less is no reason to end a run
        log.info("the duration of a step could not be noted: %s", error)


def tell_pace(run: Run, span: Span, meta_run: MetaRun | None) -> None:
    """Say how long the steps will take, where it was measured before."""
    pace = None if meta_run is None else noted_pace(run, meta_run)
    if pace is not None:
        whole = duration(pace.seconds * (span.last_step - span.first_step))
        run.say(f"estimated time of the steps: {whole}, at {duration(pace.seconds)} each, {pace.words}")


@dataclass
class PaceTaker:
    """Observes how long updates over full batches of the largest size take, and notes it at the end."""

    run: Run
    meta_run: MetaRun
    stride: int
    """Pixels of a latent along each side."""
    seconds: list[float] = field(default_factory=list)

    def before_training(self, step: int) -> None:
        """There is nothing to time yet."""

    def after_step(self, report: StepReport) -> None:
        demand = self.meta_run.demand
        largest = (demand.batch, demand.size[1] // self.stride, demand.size[0] // self.stride)
        shapes = [(len(batch.latents), *batch.latents.shape[-2:]) for batch in report.batches]
        if shapes == [largest] * self.run.config.training.gradient_accumulation_steps:
            self.seconds.append(report.seconds)

    def after_training(self, step: int) -> None:
        timed = self.seconds[WARM_UP:]
        if self.run.is_main and len(timed) >= LEAST:
            note_pace(self.run, self.meta_run, statistics.median(timed))

    def before_stop(self, step: int) -> None:
        self.after_training(step)


def _note(run: Run, meta_run: MetaRun) -> Path:
    config = run.config
    settings = (
        config.model.attention,
        config.model.blocks_to_swap,
        config.training.torch_compile and config.training.dynamo_backend,
        config.training.cuda_graphs,
        config.training.gradient_accumulation_steps,
        config.optimizer.optimizer_type,
        sum(group.values.numel() for group in meta_run.trainer.groups),
        run.processes,
    )
    works = (_listed(meta_run.work_of(phase)) for phase in (STEP, ENCODING))
    key = digest("pace", platform.node(), run.machine, repr(settings), *works)
    return cache_folder(config.data.cache_dir) / "paces" / f"{key}.json"


def _listed(work: Work) -> str:
    return "\n".join(sorted(f"{tuple(map(str, each))} {count}" for each, count in work.items()))
