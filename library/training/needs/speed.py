"""How fast a device computes, measured on a few operators in about half a second, and how long a phase's work takes at that speed.

Every operator takes the longer of two times: that of its arithmetic and that of the bytes it moves (Williams et al. 2009, the
roofline). To it comes what calling an operator costs, beside the work on a CPU, meanwhile on a GPU.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from library.kernels.attention import compiled_attention, suits
from library.training.needs.work import Kind, Operation, Tally, Work

TIMED = 0.04
"""Seconds for which each operator is repeated; its shortest time counts."""
MOST_READERS = 4
"""Cores that read as fast as the memory lets them, however many more there are."""
CPU_TIME = time.perf_counter if os.name == "nt" else time.thread_time
"""Seconds that a thread itself has worked. Windows counts them too coarsely."""
AMONG_OTHERS = 0.8
"""Share of the speed that an operator has when it is repeated that is left to it in a step, where others have taken the processor's
caches meanwhile; measured for SD 1.5."""
CALLED_AMONG_OTHERS = 0.5
"""The same for calling operators; measured for the demo model."""
SHORTEST_KERNEL = 2e-6
"""Seconds that a GPU takes at least for a kernel, however little there is to do."""
TOKENS = 1536
"""Of the attention that is timed."""

Channels = tuple[tuple[int, int], ...]
"""Channels and side of 3x3 convolutions, as a UNet has them at its levels."""
CHANNELS: Mapping[bool, Channels] = {False: ((320, 32), (640, 16), (1280, 8)), True: ((320, 64), (640, 32), (1280, 16))}
"""On a CPU, on a GPU."""


@dataclass(frozen=True)
class Speeds:
    """Of a device in one type."""

    arithmetic: Mapping[Kind, float]
    """Products, convolutions and attention: multiplications and additions a second."""
    reading: float
    """Bytes a second that products read of weights."""
    passing: float
    """Bytes a second of operators that do little with each value."""
    calling: float
    """Seconds to call an operator, forwards and backwards, with the modules around it."""

    def of(self, operation: Operation) -> float:
        """Seconds of an operator, without calling it."""
        if operation.kind == "view":
            return 0.0
        if operation.kind == "other":
            return operation.bytes / self.passing
        return max(operation.flops / self.arithmetic[operation.kind], operation.bytes / self.reading)


@dataclass(frozen=True)
class Machine:
    """A device's speeds in each type that a run computes in."""

    speeds: Mapping[torch.dtype, Speeds]
    """The run's own type first; it stands for those that are not here."""
    calls_ahead: bool
    """Operators are called while earlier ones are worked on."""

    def seconds(self, work: Work, recorded: bool = False) -> float:
        """That the work takes.

        Args:
            recorded: it is replayed without being called.
        """
        main = next(iter(self.speeds.values()))
        least = SHORTEST_KERNEL if self.calls_ahead else 0.0
        worked = sum(
            count * max(self.speeds.get(each.dtype, main).of(each), least)
            for each, count in work.items()
            if each.kind != "view"
        )
        called = 0.0 if recorded else main.calling * work.total()
        return max(worked, called) if self.calls_ahead else worked + called


def measured(device: torch.device, main: torch.dtype, works: Iterable[Work]) -> Machine:
    """The device's speeds. Other programs that compute meanwhile hardly change what is found for a CPU.

    Args:
        main: the run's type.
        works: the types with arithmetic in them are measured too.
    """
    types = dict.fromkeys([main, *(each.dtype for work in works for each in work if each.flops)])
    on_gpu = device.type == "cuda"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `_timed` tells
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return Machine({dtype: _speeds(device, dtype, 1 if on_gpu else threads) for dtype in types}, on_gpu)
    finally:
        torch.set_num_threads(threads)


def _speeds(device: torch.device, dtype: torch.dtype, cores: int) -> Speeds:
    on_gpu = device.type == "cuda"

    def values(*shape: int) -> Tensor:
        return torch.rand(shape, device=device, dtype=torch.float32).to(dtype)

    def rate(amount: str, cores: int, *works: Callable[[], object]) -> float:
        timed = [_timed(device, work, cores) for work in works]
        total = sum(getattr(each, amount) * count for work, _ in timed for each, count in work.items())
        return AMONG_OTHERS * total / sum(seconds for _, seconds in timed)

    readers = min(cores, MOST_READERS)
    rows, wide, narrow = values(4096 if on_gpu else 256, 640), values(2560, 640), values(4, 640)
    pixels = [values(1, c, side, side).to(memory_format=torch.channels_last) for c, side in CHANNELS[on_gpu]]
    kernels = [values(c, c, 3, 3).to(memory_format=torch.channels_last) for c, _ in CHANNELS[on_gpu]]
    tokens, picture = values(1, TOKENS, 320), pixels[0]
    passes = (partial(F.silu, picture), partial(F.group_norm, picture, 32), partial(torch.add, picture, 1))
    return Speeds(
        arithmetic={
            "product": rate("flops", cores, partial(F.linear, rows, wide)),
            "convolution": rate("flops", cores, *(partial(F.conv2d, x, w, padding=1) for x, w in zip(pixels, kernels))),
            "attention": AMONG_OTHERS * 4 * TOKENS**2 * 320 / _timed(device, partial(_attention, tokens), cores)[1],
        },
        reading=rate("bytes", readers, partial(F.linear, narrow, wide)),
        passing=rate("bytes", readers, *passes),
        calling=_calling(device, dtype),
    )


def _attention(x_BTC: Tensor) -> Tensor:
    """Eight heads, by the kernel that the UNet's attention uses."""
    if suits(x_BTC, 8):
        return compiled_attention(x_BTC, x_BTC, x_BTC, 8)
    heads = x_BTC.unflatten(-1, (8, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads)


def _calling(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds to call an operator: of small modules there is nothing to compute."""
    chain = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8)).to(device, dtype)
    x = torch.rand(4, 8, device=device).to(dtype)

    def step() -> None:
        with torch.enable_grad():
            chain(x).sum().backward()

    counted, seconds = _timed(device, step, 1)
    return seconds / counted.total() / CALLED_AMONG_OTHERS


def _timed(device: torch.device, work: Callable[[], object], cores: int) -> tuple[Work, float]:
    """What the work computes, and its seconds when it is repeated, with the wait for a GPU.

    On a CPU it is the time that one thread works, divided among the cores: threads that wait for one another take many times as
    long where other programs have the cores too, and that would say nothing of the run.

    Args:
        cores: that share the work.
    """
    on_gpu = device.type == "cuda"
    with Tally() as tally:
        work()  # the first time of anything is slow
    clock, wait = (time.perf_counter, torch.cuda.synchronize) if on_gpu else (CPU_TIME, lambda: None)
    return tally.work, _shortest(work, clock, wait) / cores


def _shortest(work: Callable[[], object], clock: Callable[[], float], wait: Callable[[], None]) -> float:
    """Seconds by that clock, of the quickest time."""
    wait()
    shortest, end = math.inf, time.perf_counter() + TIMED
    while time.perf_counter() < end:
        started = clock()
        work()
        wait()
        shortest = min(shortest, clock() - started)
    return shortest
