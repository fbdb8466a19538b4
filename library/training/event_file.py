"""A TensorBoard log, written event by event.

TensorBoard's own writer has a thread, which tells of a full disk some steps later and with a traceback.
"""

from __future__ import annotations

import os
import time
from io import BytesIO
from pathlib import Path
from socket import gethostname

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from library.core.disk import writing


class EventFile:
    """A new file of events in a folder, in TensorBoard's format.

    Every method raises a `UserError` where it cannot write. The file then ends with its last whole event, and takes further ones.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"events.out.tfevents.{int(time.time()):010}.{gethostname()}.{os.getpid()}"
        with writing(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """One point on each curve."""
        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._log(Summary(value=points), step)

    def image(self, tag: str, picture: Image.Image, step: int) -> None:
        """One picture."""
        self._log(summary.image(tag, np.asarray(picture.convert("RGB")), dataformats="HWC"), step)

    def text(self, tag: str, text: str) -> None:
        """A text, shown as Markdown."""
        self._log(summary.text(tag, text), 0)

    def flush(self) -> None:
        """fsync."""
        with writing(self._path):
            os.fsync(self._file.fileno())

    def _log(self, content: Summary, step: int) -> None:
        self._append(Event(wall_time=time.time(), step=step, summary=content))

    def _append(self, event: Event) -> None:
        record = BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        rest, end = record.getvalue(), self._file.tell()
        with writing(self._path, len(rest)):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                self._file.truncate(end)
                self._file.seek(end)
                raise
