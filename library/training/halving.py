"""Batches that memory does not suffice for, worked on in halves at the same effective batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from library.core.errors import Exit, UserError
from library.core.memory import amounts, give_back_memory, is_out_of_memory
from library.training.batch import Batch

log = logging.getLogger("dojo")


class BatchTooLarge(UserError):
    """Memory does not suffice for a batch.

    Args:
        message: where, and how much there is.
        size: width and height of its pictures, in pixels.
        count: its pictures.
    """

    def __init__(self, message: str, size: tuple[int, int], count: int) -> None:
        super().__init__(message, Exit.OUT_OF_MEMORY)
        self.size = size
        self.count = count


@dataclass
class Halving:
    """Remembers which shapes of latents (B, C, h, w) are worked on in halves; it is part of the state, as dropouts depend on it.

    Args:
        enabled: whether batches may be halved.
        stride: pixels of a picture to a latent.
    """

    enabled: bool = False
    stride: int = 8
    _halved: set[torch.Size] = field(default_factory=set)

    def accumulate(
        self, passes: Sequence[Batch], accumulate: Callable[[Batch], Tensor], start_anew: Callable[[], None]
    ) -> list[Tensor]:
        """Do every pass of an update, each in as many parts as memory asks for; returns the losses (B,) of each part.

        The loss is normalised over the global batch, so the parts' gradients add up to the whole's but for rounding.

        Args:
            accumulate: adds the gradients of a part.
            start_anew: clears them.

        Raises:
            BatchTooLarge: no smaller part is left, or none is wanted.
        """
        while True:
            losses = []
            for part in [part for batch in passes for part in self._parts(batch)]:
                try:
                    losses.append(accumulate(part))
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    lack = amounts(error)
                    break
            else:
                return losses
            start_anew()
            give_back_memory()
            self._halve(part, lack)

    @property
    def shapes(self) -> list[list[int]]:
        """Shapes that are halved, for JSON."""
        return sorted(map(list, self._halved))

    def remember(self, shapes: Sequence[Sequence[int]]) -> None:
        """Halve these too; switched off, nothing is halved."""
        if self.enabled:
            self._halved |= {torch.Size(shape) for shape in shapes}

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        if not self._halved or batch.latents.shape not in self._halved:
            yield batch
            return
        for half in batch.halves():
            yield from self._parts(half)

    def _halve(self, batch: Batch, lack: str) -> None:
        count, _, height, width = batch.latents.shape
        size = (width * self.stride, height * self.stride)
        pictures = f"{count} picture{'s' if count > 1 else ''} of {size[0]}x{size[1]}"
        if not self.enabled or count == 1:
            raise BatchTooLarge(
                f"out of memory in step {batch.step + 1}, in a pass over {pictures}: {lack}.", size, count
            )
        self._halved.add(batch.latents.shape)
        log.warning(
            "step %d: out of memory in a pass over %s (%s). From here on such a pass is done in two halves, at the same effective "
            "batch.",
            batch.step + 1,
            pictures,
            lack,
        )
