"""How work on a GPU is recorded as a CUDA graph, and when that is not tried."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import torch

from library.core.memory import give_back_memory

LEAST_TORCH = "2.13"
"""Before it a recording that breaks off leaves the allocator and the random numbers in its mode: nothing works after it
(https://github.com/pytorch/pytorch/pull/180395)."""


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

    def close(self) -> None:
        """Give back the recordings' memory, once nobody holds any of them. Nothing is recorded afterwards."""
        ...


class CudaRecorder:
    """CUDA graphs that share one pool of memory; they are replayed one after the other, on the stream of the step."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._broke_off = False

    def warm_up(self, work: Callable[[], None], strict: bool) -> None:
        """Do the work on the stream of the recordings; `strict` refuses to wait for the device."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                if strict:
                    with _refusing_to_wait():
                        work()
                else:
                    work()
        finally:
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
        except BaseException:
            self._broke_off = True
            raise
        finally:
            torch.cuda.set_stream(current)
        return graph.replay

    def close(self) -> None:
        """Give the pool back, that of a recording that broke off included."""
        give_back_memory()
        if self._broke_off and self._still_kept():
            # torch 2.13 counts a recording that broke off among the pool's users for ever
            # (https://github.com/pytorch/pytorch/pull/190348). What cannot be given back costs memory and nothing else.
            with suppress(RuntimeError):
                torch._C._cuda_releasePool(self._stream.device.index, self._pool)
            give_back_memory()

    def _still_kept(self) -> bool:
        """Whether the pool holds on to memory that is not in use, which a pool without users gives back."""
        try:
            segments = torch.cuda.memory_snapshot()
        except RuntimeError:  # an allocator that keeps no such list, as cudaMallocAsync
            return False
        return any(
            tuple(segment["segment_pool_id"]) == tuple(self._pool) and segment["active_size"] == 0
            for segment in segments
        )


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Within the block it is an error if the host waits for the device."""
    former = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(former)


def obstacle(device: torch.device, capturable: bool, recomputes_random: bool, swaps_blocks: bool) -> str | None:
    """Why passes are not recorded, where it is known beforehand.

    Args:
        capturable: the network's word, see `networks.base.Network`.
        recomputes_random: gradient checkpointing repeats the network's random numbers, which a recording cannot look up.
        swaps_blocks: weights come and go, so that they lie elsewhere each time.
    """
    if device.type != "cuda":
        return f"this run is on '{device.type}'"
    if torch.__version__ < LEAST_TORCH:
        return f"they need torch {LEAST_TORCH}, and this is {torch.__version__}"
    if not capturable:
        return "what this network_module decides in Python would be frozen"
    if recomputes_random:
        return "a network that draws random numbers (dropout) cannot be recorded together with gradient_checkpointing"
    if swaps_blocks:
        return "the weights that blocks_to_swap moves lie elsewhere each time"
    return None
