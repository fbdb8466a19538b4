"""The memory that a run will need, told before its model is loaded.

On a GPU the figure is what nvidia-smi shows of the process, on a CPU its resident memory.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from library.config.schema.training import OptimizerConfig
from library.core.errors import Exit, UserError
from library.core.memory import give_back_memory
from library.data.dataset import TrainingData
from library.inference.requests import SampleRequest
from library.models.live_memory import CUDA_BLOCK, LiveMemory, OneDnn
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer
from library.training.halving import BatchTooLarge
from library.training.length import Length
from library.training.needs.meta_run import (
    ACTIVATIONS,
    NETWORK,
    STEP,
    TEMPORARIES,
    Demand,
    MetaRun,
    Phase,
    demand_of,
    dry_run,
)
from library.training.run import Run
from networks.base import ParameterGroup

log = logging.getLogger("dojo")

GIB = 1 << 30
CUDA_CONTEXT = GIB // 2
"""What CUDA and its libraries take on a GPU before the first tensor; between 0.3 and 0.6 GiB, by card and version."""
KERNEL = 1 << 19
"""Bytes that oneDNN keeps for each product that it has compiled, measured for SD 1.5."""
HOLES = 0.15
"""Share by which the C library's heap outgrows what is in it, since holes are left where nothing fits; measured for SD 1.5,
where it lies between 0.1 and 0.35."""
SAMPLE = 1 << 16
"""Values on which the optimizer's memory is measured."""
GOES_ON = (
    "Changes of gradient_checkpointing, blocks_to_swap, cuda_graphs and halve_batch_on_oom leave the run the same: `--resume latest` "
    "goes on with them from the last saved state."
)


def tell_memory(run: Run, data: TrainingData, length: Length, requests: Sequence[SampleRequest]) -> MetaRun | None:
    """Say how much memory the run will need, and where that is more than there is, what would lower it.

    Returns:
        The run on the meta device, on the main process, where it could be gone through there.

    Raises:
        UserError: the model, the network or the optimizer cannot be built.
    """
    if not run.is_main:
        return None
    demand = demand_of(run, data, requests)
    try:
        peak, meta_run = estimate(run, length, demand)
    except UserError:
        raise
    except Exception as error:  # somebody's own network or optimizer need not work without numbers
        log.warning("the peak memory could not be estimated: %s: %s", type(error).__name__, str(error).split("\n")[0])
        return None
    run.say(f"estimated peak memory: {described(peak, demand)}")
    free = available(run.device)
    if peak.total > free:
        run.say(f"warning: only {free / GIB:.1f} GiB are free. {advice(run, length, demand, peak)}")
    return meta_run


@contextmanager
def telling_what_takes_less(run: Run, length: Length) -> Iterator[None]:
    """Within the block, which trains, a batch for which memory does not suffice is told with the settings that would help.

    Raises:
        UserError: with `Exit.OUT_OF_MEMORY`.
    """
    try:
        yield
        return
    except BatchTooLarge as error:
        message, demand = str(error), Demand(error.size, error.count, error.count)
    give_back_memory()  # what the error held of the step is not needed any more
    halves = demand.batch > 1 and not run.config.training.halve_batch_on_oom
    rest = " halve_batch_on_oom = true does such a pass in halves, at the same effective batch." if halves else ""
    raise UserError(f"{message} {_advice_for_steps(run, length, demand)}{rest} {GOES_ON}", Exit.OUT_OF_MEMORY) from None


def _advice_for_steps(run: Run, length: Length, demand: Demand) -> str:
    try:
        return advice(run, length, demand, estimate(run, length, demand, STEP)[0], STEP)
    except Exception:  # this takes some memory too, and somebody's own network need not work without numbers
        words = [words for words, _, _ in _savings(run, demand)]
        return f"Each of these would lower what it takes: {', '.join([*words, 'a lower resolution'])}."


def estimate(run: Run, length: Length, demand: Demand, only: str | None = None) -> tuple[Phase, MetaRun]:
    """The phase of the run that needs the most memory, and the run on the meta device that tells so.

    Args:
        only: the name of the phase that is of interest.
    """
    kernels = OneDnn()
    on_gpu = run.device.type == "cuda"
    memory = LiveMemory(block=CUDA_BLOCK) if on_gpu else LiveMemory(workspace=kernels.workspace)
    meta_run = dry_run(run, length, demand, memory, optimizer_cost(run.config.optimizer, run.device))
    gc.collect()
    if on_gpu:
        resident: Iterator[Phase] = (_with(phase, {"CUDA": CUDA_CONTEXT}) for phase in meta_run.phases)
    else:
        resident = in_process(meta_run.phases, resident_memory(), kernels.kernels * KERNEL)
    meta_run = replace(meta_run, phases=list(resident))
    peak = max((phase for phase in meta_run.phases if only in (None, phase.name)), key=lambda phase: phase.total)
    return peak, meta_run


def in_process(phases: Sequence[Phase], process: int, kernels: int) -> Iterator[Phase]:
    """The phases with what a process on a CPU holds besides.

    Its heap never shrinks. What caching has made of it is in pieces by then, and counts in full beside what training needs.

    Args:
        process: bytes of the interpreter with its libraries.
        kernels: bytes of compiled kernels.
    """
    cached = trained = 0
    for phase in phases:
        used = sum(size for name, size in phase.parts.items() if name in (NETWORK, ACTIVATIONS, TEMPORARIES))
        if NETWORK in phase.parts:
            trained = max(trained, used)
        else:
            cached = max(cached, used)
        heap = cached + trained - used + round(HOLES * (trained or cached))
        yield _with(phase, {"Python and libraries": process + kernels, "heap": heap})


def optimizer_cost(config: OptimizerConfig, device: torch.device) -> tuple[float, float]:
    """Bytes for each trained value: what the optimizer keeps, and what an update takes beside; measured on a small tensor."""
    parameter = nn.Parameter(torch.zeros(SAMPLE // 64, 64, device=device))
    groups = flatten([ParameterGroup("sample", [parameter], config.learning_rate or 1.0)])
    optimizer = build_optimizer(config, groups).inner
    groups[0].gradients.fill_(1e-3)
    optimizer.step()
    kept = sum(
        value.nbytes for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
    )
    with LiveMemory(device.type) as memory:
        optimizer.step()
    return kept / SAMPLE, memory.peak / SAMPLE


def resident_memory() -> int:
    """Bytes of this process that are in memory now."""
    import psutil

    return psutil.Process().memory_info().rss


def available(device: torch.device) -> int:
    """Bytes that this process can have altogether on the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + CUDA_CONTEXT  # ours is taken already, to ask this
    import psutil

    return psutil.virtual_memory().available + resident_memory()


def described(phase: Phase, demand: Demand) -> str:
    """2.71 GiB (training step at 256x256; UNet 1.6, activations 0.5, ...)."""
    width, height = demand.preview_size if "preview" in phase.name else demand.size
    parts = sorted(phase.parts.items(), key=lambda part: -part[1])
    listed = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts if size >= GIB / 20)
    return f"{phase.total / GIB:.2f} GiB ({phase.name} at {width}x{height}; {listed})"


def advice(run: Run, length: Length, demand: Demand, peak: Phase, only: str | None = None) -> str:
    """What would lower the peak, and how far, the most helpful first.

    Args:
        only: as for `estimate`.
    """
    found = []
    for words, changed, less in _savings(run, demand):
        with suppress(UserError):  # a setting that does not go with the others is no advice
            found.append((estimate(changed, length, less, only)[0].total, words))
    helpful = sorted((total, words) for total, words in found if total < peak.total - GIB / 20)
    if not helpful:
        return "Train at a lower resolution, or a smaller model."
    listed = "; ".join(f"{words}: {total / GIB:.1f} GiB" for total, words in helpful)
    return f"Each of these would lower the peak: {listed}."


def _savings(run: Run, demand: Demand) -> Iterator[tuple[str, Run, Demand]]:
    """Settings that may save memory, as words, and the run and its demand with them."""
    config = run.config

    def changed(group: str, **values: object) -> Run:
        return replace(run, config=replace(config, **{group: replace(getattr(config, group), **values)}))

    if config.training.gradient_checkpointing is not True:
        yield "gradient_checkpointing = true", changed("training", gradient_checkpointing=True), demand
    if config.training.mixed_precision == "no":
        yield "mixed_precision = 'bf16'", changed("training", mixed_precision="bf16"), demand
    if not config.data.cache_latents:
        yield "cache_latents = true", changed("data", cache_latents=True), demand
    if demand.batch > 1:
        half = demand.batch // 2
        yield f"train_batch_size = {half}", run, replace(demand, batch=half)
    if config.model.quantize_base == "none":
        yield "quantize_base = 'int8'", changed("model", quantize_base="int8"), demand
    if config.optimizer.optimizer_type.lower() == "adamw":
        yield "optimizer_type = 'AdamW8bit'", changed("optimizer", optimizer_type="AdamW8bit"), demand
    if run.device.type == "cuda" and config.training.cuda_graphs:
        yield "cuda_graphs = false", changed("training", cuda_graphs=False), demand
    if demand.previews:
        yield "no sample_prompts", run, replace(demand, previews=0)


def _with(phase: Phase, parts: dict[str, int]) -> Phase:
    return replace(phase, parts={**phase.parts, **parts})
