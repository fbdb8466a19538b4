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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from library.training.batch import Batch, sendable

log = logging.getLogger("dojo")

WARM_UP_USES = 2
"""Ordinary passes of a shape before it is recorded; they count as training like any other."""

MOST_SHAPES = 32
"""Shapes that are recorded. Each costs host memory for its thousands of launches; they share the device memory."""

TOLERANCE = 0.02
"""Largest difference of a replay from an ordinary pass, as a share of the norm: of the losses, and of what the pass adds to the
gradients. The kernels are the same, so only the order of sums in atomic additions differs; a recording that reads
something stale is wrong by about 1."""

AddGradient = Callable[[Batch, Tensor], Tensor]
"""(batch on the device, 0-d size of the global batch) -> losses (B,); adds to the gradients."""

Signature = tuple[object, ...]


class Recorder(Protocol):
    """Turns work on fixed tensors into something that does it again."""

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        """Do the work, where it will be recorded.

        Args:
            strict: the recording follows: refuse what would spoil it.

        Raises:
            RuntimeError: something would.
        """
        ...

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does the work again; need not do it now.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory; they are replayed one after the other, on the stream of the step."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        """Do the work on the stream of the recordings; `strict` refuses to wait for the device."""
        current = torch.cuda.current_stream()
        former = torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(current)
        torch.cuda.set_sync_debug_mode("error" if strict else former)
        try:
            with torch.cuda.stream(self._stream):
                work()
        finally:
            torch.cuda.set_sync_debug_mode(former)
            current.wait_stream(self._stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work as a graph."""
        current = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        # Threads beside this one page-lock memory for coming batches, which the global mode would take for an error.
        recording = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        try:
            with recording:
                work()
        finally:
            torch.cuda.set_stream(current)
        return graph.replay


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
        batch_sizes: of whole batches; a shorter one is filled up to the next of these with samples that weigh nothing, so
            that it needs no recording of its own.
    """

    def __init__(
        self, add_gradient: AddGradient, gradients: Tensor, recorder: Recorder, batch_sizes: Iterable[int]
    ) -> None:
        self._add_gradient = add_gradient
        self._gradients = gradients
        self._recorder: Recorder | None = recorder
        self._batch_sizes = sorted(batch_sizes)
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

    def forget(self, batch: Batch) -> None:
        """Drop what is kept for batches like this one, which memory does not suffice for."""
        signature = signature_of(self._padded(batch))
        self._recordings.pop(signature, None)
        self._uses.pop(signature, None)

    def _padded(self, batch: Batch) -> Batch:
        """Filled up to a usual size; parts are not, which are to be smaller."""
        size = len(batch.weight)
        return (
            batch if batch.part else batch.padded(next((whole for whole in self._batch_sizes if whole >= size), size))
        )

    def _unrecorded(self, signature: Signature, batch: Batch, seed: int, recorder: Recorder) -> Tensor:
        """An ordinary pass, and after enough of them the recording."""
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
        self._give_up(reason)
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
        device = self._gradients.device
        global_size = torch.full((), float(batch.global_size), device=device)
        before = self._gradients.clone() if self._recordings else None
        torch.manual_seed(seed)
        try:
            return self._add_gradient(batch.to(device), global_size)
        except torch.OutOfMemoryError:
            if before is None:
                raise
        self._give_up("out of memory beside the recorded passes")
        self._gradients.copy_(before)
        torch.manual_seed(seed)
        return self._add_gradient(batch.to(device), global_size)

    def _give_up(self, reason: str) -> None:
        log.warning("CUDA graphs are off from here on, and steps are launched piece by piece: %s.", reason)
        self._recorder = None
        on_gpu = self._gradients.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize()  # a replay may still be under way
        self._recordings.clear()
        if on_gpu:
            torch.cuda.empty_cache()


def obstacle(device: torch.device, capturable: bool, recomputes_random: bool, swaps_blocks: bool) -> str | None:
    """Why passes are not recorded, where it is known beforehand.

    Args:
        capturable: the network's word, see `networks.base.Network`.
        recomputes_random: gradient checkpointing repeats the network's random numbers, which a recording cannot look up.
        swaps_blocks: weights come and go, so that they lie elsewhere each time.
    """
    if device.type != "cuda":
        return f"this run is on '{device.type}'"
    if not capturable:
        return "what this network_module decides in Python would be frozen"
    if recomputes_random:
        return "a network that draws random numbers (dropout) cannot be recorded together with gradient_checkpointing"
    if swaps_blocks:
        return "the weights that blocks_to_swap moves lie elsewhere each time"
    return None


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
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory while a pass was recorded"
    return str(error).partition("\n")[0].strip() or type(error).__name__
