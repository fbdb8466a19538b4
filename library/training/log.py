"""What people watch while training: the progress bar and TensorBoard."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from library.training.loop import Span, StepReport
from library.training.spikes import Spikes

NORMS = {
    "keys_scaled": "max_norm/keys_scaled",
    "average_norm": "norm/avg_key_norm",
    "maximum_norm": "max_norm/max_key_norm",
}
"""What `Network.limit_norms` tells, and sd-scripts' tag of it."""


class Board:
    """A TensorBoard log, or nothing at all when there is no folder.

    Raises:
        UserError: by every method, where the log cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._events = None
        if folder is not None:
            from library.training.event_file import EventFile  # imports TensorBoard

            self._events = EventFile(folder)

    def scalars(self, values: dict[str, float], step: int) -> None:
        """One point on each curve."""
        if self._events is not None:
            self._events.scalars(values, step)

    def image(self, tag: str, picture: Image.Image, step: int) -> None:
        """One picture."""
        if self._events is not None:
            self._events.image(tag, picture, step)

    def text(self, tag: str, text: str) -> None:
        """A text, shown as Markdown."""
        if self._events is not None:
            self._events.text(tag, text)

    def flush(self) -> None:
        """Bring what was logged to disk."""
        if self._events is not None:
            self._events.flush()


class Log:
    """Writes losses, learning rates, norms and speed; shows the progress bar.

    Losses are means over the global batch, so that they are the same however many processes there are; averages are over those that
    are finite numbers. A step is written `lag` steps late, so that nobody waits for a GPU.
    """

    def __init__(self, board: Board, span: Span, every: int, bar: bool, lag: int) -> None:
        self.board = board
        self.span = span
        self.every = every
        self.lag = lag
        self.bar = tqdm(disable=True)
        self.shows_bar = bar
        self.pending: deque[StepReport] = deque()
        self.recent: deque[float] = deque(maxlen=span.updates_per_epoch)
        self.epoch_losses: list[float] = []
        self.spikes = Spikes()

    def before_training(self, step: int) -> None:
        self.bar = tqdm(
            total=self.span.last_step,
            initial=step,
            desc="steps",
            dynamic_ncols=True,
            disable=not self.shows_bar,
            smoothing=0.1,
        )

    def after_step(self, report: StepReport) -> None:
        self.pending.append(report)
        if len(self.pending) > self.lag:
            self._write(self.pending.popleft())

    def after_training(self, step: int) -> None:
        self.close()

    def before_stop(self, step: int) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written; also where a run ends before its last step."""
        while self.pending:
            self._write(self.pending.popleft())
        self.bar.close()
        self.board.flush()

    @property
    def average(self) -> float:
        """Mean loss over the last epoch's worth of steps."""
        return sum(self.recent) / len(self.recent) if self.recent else math.nan

    def _write(self, report: StepReport) -> None:
        figures = report.figures.values()
        loss = figures["loss"] / max(1, report.global_size)
        if math.isfinite(loss):
            self.recent.append(loss)
            self.epoch_losses.append(loss)
        spike = self.spikes.watch(report.step, loss, report.batches) if report.batches else None
        if spike is not None:
            tqdm.write(spike)
            self.board.scalars({"loss/spike": loss}, report.step)
        values = {"loss/current": loss, "loss/average": self.average}
        values |= {f"lr/{name}": rate for name, rate in (report.scheduled or report.rates).items()}
        if report.scheduled:
            values |= {f"lr/d*lr/{name}": rate for name, rate in report.rates.items()}
        values |= {tag: figures[name] for name, tag in NORMS.items() if name in figures}
        values["norm/grad_norm"] = figures["gradient_norm"]
        values |= {"speed/steps_per_second": 1 / report.seconds, "speed/waiting_for_data": report.data_seconds}
        if report.step % self.every == 0:
            self.board.scalars(values, report.step)
        if report.ends_epoch and self.epoch_losses:
            self.board.scalars({"loss/epoch_average": sum(self.epoch_losses) / len(self.epoch_losses)}, report.epoch)
            self.epoch_losses.clear()
        highest = max(report.rates.values(), default=0.0)
        told = f"epoch {report.epoch}/{self.span.epochs}, loss {self.average:.4f}, lr {highest:.2e}"
        self.bar.set_postfix_str(told, refresh=False)
        self.bar.update()
