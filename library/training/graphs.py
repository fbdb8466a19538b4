"""Passes as CUDA graphs: the forward and backward pass of a micro-batch is recorded once for each shape and then replayed.

A UNet's pass is thousands of small kernels, and at small batches a GPU waits for the host that launches them one by one. A
replay launches all of them at once. It reads the buffers that it was recorded with, so a batch is copied into them first, and
adds to the flat gradients where they always lie.

A shape's first uses are ordinary passes, which is what libraries need to settle before a recording. The recording is then
replayed and compared with an ordinary pass over the same batch; from there on the replay does the work. Whatever does not work
out is told in one line, and training goes on with ordinary passes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from library.core.memory import is_out_of_memory
from library.training.batch import Batch, sendable
from library.training.recorder import Recorder

log = logging.getLogger("dojo")

WARM_UP_USES = 2
"""Ordinary passes of a shape before it is recorded; they count as training like any other."""

MOST_SHAPES = 32
"""Shapes that are recorded. Each costs host memory for its thousands of launches; they share the device memory."""

TOLERANCE = 0.02
"""Largest difference of a replay from an ordinary pass, as a share of the norm: of the losses, and of what the pass adds to the
gradients. The kernels are the same, so only the order of sums in atomic additions differs; a recording that reads
something stale is wrong by about 1."""

BESIDE_RECORDINGS = "out of memory beside the recorded passes"

AddGradient = Callable[[Batch, Tensor], Tensor]
"""(batch on the device, 0-d size of the global batch) -> losses (B,); adds to the gradients."""

Signature = tuple[object, ...]


@dataclass(frozen=True)
class Recording:
    """A pass over fixed buffers."""

    batch: Batch
    global_size: Tensor
    losses: Tensor
    replay: Callable[[], None]

    def run(self, batch: Batch, seed: int) -> Tensor:
        """The losses (B,) of a batch of this signature; the gradients are added."""
        fill(self.batch, self.global_size, batch)
        torch.manual_seed(seed)
        self.replay()
        return self.losses.clone()


class CapturedPasses:
    """Passes that are replayed where they can be.

    Args:
        add_gradient: an ordinary pass.
        gradients: (N,) what it adds to.
        recorder: how passes are recorded.
        whole_sizes: height and width of latents -> samples of whole batches of that shape; a shorter one is filled up to
            the next of these with samples that weigh nothing, so that it needs no recording of its own.
    """

    def __init__(
        self,
        add_gradient: AddGradient,
        gradients: Tensor,
        recorder: Recorder,
        whole_sizes: Mapping[tuple[int, int], Collection[int]],
    ) -> None:
        self._add_gradient = add_gradient
        self._gradients = gradients
        self._recorder: Recorder | None = recorder
        self._whole_sizes = whole_sizes
        self._recordings: dict[Signature, Recording] = {}
        self._uses: dict[Signature, int] = {}
        self._told_of_shapes = False

    def __call__(self, batch: Batch, seed: int) -> Tensor:
        """Add the batch's share of the gradient; returns its losses (B,).

        Args:
            seed: of the pass's dropout.
        """
        size = len(batch.weight)
        if self._recorder is None:
            return self._ordinary(batch, seed)
        batch = self._padded(batch)
        signature = signature_of(batch)
        if signature in self._recordings:
            return self._recordings[signature].run(batch, seed)[:size]
        return self._unrecorded(signature, batch, seed, self._recorder)[:size]

    def _padded(self, batch: Batch) -> Batch:
        """Filled up to a whole size of its shape; parts are not, which are to be smaller."""
        if batch.part:
            return batch
        height, width = batch.latents.shape[-2:]
        size = len(batch.weight)
        return batch.padded(
            min((whole for whole in self._whole_sizes.get((height, width), ()) if whole >= size), default=size)
        )

    def _unrecorded(self, signature: Signature, batch: Batch, seed: int, recorder: Recorder) -> Tensor:
        """An ordinary pass, and after enough of them the recording.

        Raises:
            RuntimeError: memory does not suffice for the ordinary pass by itself.
        """
        uses = self._uses[signature] = self._uses.get(signature, 0) + 1
        if uses > WARM_UP_USES and len(self._recordings) >= MOST_SHAPES:
            if not self._told_of_shapes:
                log.warning("more than %d shapes of batches: further ones train without a CUDA graph.", MOST_SHAPES)
            self._told_of_shapes = True
            return self._ordinary(batch, seed)
        before = self._gradients.clone()
        try:
            return self._warm_up_or_record(signature, batch, seed, recorder, before)
        except RuntimeError as error:
            reason = _first_cause(error)
            if is_out_of_memory(error) and uses <= WARM_UP_USES:
                if not self._recordings:
                    raise
                reason = BESIDE_RECORDINGS
        self._give_up(reason, recorder)
        self._gradients.copy_(before)
        return self._ordinary(batch, seed)

    def _warm_up_or_record(
        self, signature: Signature, batch: Batch, seed: int, recorder: Recorder, before: Tensor
    ) -> Tensor:
        """
        Args:
            before: a copy of the gradients as they are now.

        Raises:
            RuntimeError: the pass cannot be recorded; the gradients are spoilt.
        """
        fixed, global_size = fixed_copy(batch, self._gradients.device)
        losses = torch.zeros(len(batch.weight), device=self._gradients.device)

        def work() -> None:
            losses.copy_(self._add_gradient(fixed, global_size))

        fill(fixed, global_size, batch)
        torch.manual_seed(seed)
        recorded_now = self._uses[signature] > WARM_UP_USES
        recorder.warm_up(work, strict=recorded_now)
        expected_losses, expected = losses.clone(), self._gradients.clone()
        if not recorded_now or not bool(torch.isfinite(expected).all()):
            return expected_losses
        # A decision that Python takes by a random number of its own would be frozen into the recording. Recorded with
        # another seed, it shows in the comparison.
        torch.manual_seed(seed + 1)
        recording = Recording(fixed, global_size, losses, recorder.record(work))
        self._gradients.copy_(before)
        found_losses = recording.run(batch, seed)
        differences = [
            _difference(found_losses, expected_losses, torch.zeros_like(expected_losses)),
            _difference(self._gradients, expected, before),
        ]
        if not max(differences) <= TOLERANCE:
            raise RuntimeError(
                f"a replay differs from the pass that it repeats (losses by {differences[0]:.1%}, gradients by {differences[1]:.1%})"
            )
        self._recordings[signature] = recording
        return found_losses

    def _ordinary(self, batch: Batch, seed: int) -> Tensor:
        """A pass without a recording. Where memory does not suffice beside the recordings, they are given up for it."""
        before = self._gradients.clone() if self._recordings else None
        try:
            return ordinary_pass(self._add_gradient, batch, seed, self._gradients.device)
        except RuntimeError as error:
            if before is None or self._recorder is None or not is_out_of_memory(error):
                raise
        self._give_up(BESIDE_RECORDINGS, self._recorder)
        self._gradients.copy_(before)
        return ordinary_pass(self._add_gradient, batch, seed, self._gradients.device)

    def _give_up(self, reason: str, recorder: Recorder) -> None:
        log.warning("CUDA graphs are off from here on, and steps are launched piece by piece: %s.", reason)
        self._recorder = None
        if self._gradients.is_cuda:
            torch.cuda.synchronize()  # a replay may still be under way
        self._recordings.clear()
        recorder.close()


def ordinary_pass(add_gradient: AddGradient, batch: Batch, seed: int, device: torch.device) -> Tensor:
    """Add a batch's share of the gradient without any recording; returns its losses (B,).

    Args:
        seed: of the pass's dropout.
    """
    torch.manual_seed(seed)
    return add_gradient(batch.to(device), torch.full((), float(batch.global_size), device=device))


def signature_of(batch: Batch) -> Signature:
    """What a recording is bound to: shapes and types, which tensors there are, and numbers that Python reads."""
    shapes = ((name, tuple(tensor.shape), tensor.dtype) for name, tensor in batch.tensors().items())
    return (*shapes, batch.multiplier)


def fixed_copy(batch: Batch, device: torch.device) -> tuple[Batch, Tensor]:
    """Buffers on the device for batches of this signature, and one for the size of their global batch."""
    fixed = batch.with_tensors(lambda tensor: torch.zeros_like(tensor, device=device))
    return fixed, torch.zeros((), device=device)


def fill(fixed: Batch, global_size: Tensor, batch: Batch) -> None:
    """Copy a batch into the buffers, without waiting."""
    global_size.fill_(float(batch.global_size))
    source = batch.tensors()
    for name, buffer in fixed.tensors().items():
        buffer.copy_(sendable(source[name], buffer.device), non_blocking=True)


def _difference(found: Tensor, expected: Tensor, before: Tensor) -> float:
    """|found - expected| as a share of |expected - before|; 0 where nothing was to change and nothing did."""
    off, size = torch.linalg.vector_norm(found - expected), torch.linalg.vector_norm(expected - before)
    return float(torch.where(off == 0, 0.0, off / size))


def _first_cause(error: BaseException) -> str:
    """In one line: an error while a recording breaks off hides the one that broke it off."""
    while error.__context__ is not None:
        error = error.__context__
    if is_out_of_memory(error):
        return "out of memory while a pass was recorded"
    return str(error).partition("\n")[0].strip() or type(error).__name__
