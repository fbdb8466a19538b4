"""A run gone through on the meta device, in the order of the real one, to see how much memory each of its phases takes and what
it computes.

The model, the network and the trainer are the run's own, built by the same code from the same files, but without weights.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch

from library.config.schema import Config
from library.data.cache.filling import CAPTIONS_AT_A_TIME
from library.data.dataset import TrainingData
from library.data.pictures.buckets import Size
from library.data.types import Conditioning
from library.inference.requests import SampleRequest
from library.models.base import Part
from library.models.live_memory import LiveMemory, fused_attention
from library.models.load import load_model
from library.training.length import Length
from library.training.needs.blank import META, blank_batch, blank_latents, blank_pixels
from library.training.needs.work import Tally, Work
from library.training.run import Run
from library.training.step import Trainer
from library.training.trainer import build_trainer, fullest_passes, obstacle_of, trained_hosts
from networks.base import Network
from networks.build import build_network

if TYPE_CHECKING:
    from accelerate import Accelerator

WEIGHTS: dict[Part, str] = {"vae": "VAE", "text_encoders": "text encoders", "unet": "UNet"}
NETWORK, ACTIVATIONS, TEMPORARIES = "network and optimizer", "activations", "temporaries"
RECORDED, STEP = "recorded pass", "training step"
LATENTS, CAPTIONS, ENCODING = "caching latents", "caching captions", "encoding a batch"
PREVIEW, DECODING = "preview", "decoding a preview"


@dataclass(frozen=True)
class Phase:
    """A part of the run."""

    name: str
    parts: dict[str, int]
    """Bytes, by what takes them, at the phase's fullest moment."""
    work: Work = field(default_factory=Counter)
    """What it computes."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Demand:
    """What decides a run's memory beside its configuration."""

    size: Size
    """Width and height in pixels of the largest pictures that are trained."""
    batch: int
    """Of them, in one pass."""
    captions: int
    """Pictures with captions."""
    previews: int = 0
    """Pictures that are sampled at a time."""
    preview_size: Size = (0, 0)
    guided: bool = True
    """They are sampled with guidance, which takes two predictions each."""


@dataclass(frozen=True)
class MetaRun:
    """A run gone through without weights."""

    run: Run
    """On the meta device."""
    demand: Demand
    phases: Sequence[Phase]
    """In their order; an estimate adds what the process holds beside."""
    trainer: Trainer
    """On the meta device."""
    kept: float
    """Bytes that the optimizer keeps for each trained value."""
    conditioning: Conditioning | None
    """What is cached of a batch's captions, where they are cached."""

    def work_of(self, phase: str) -> Work:
        """Nothing where the run has no such phase."""
        return next((each.work for each in self.phases if each.name == phase), Counter())

    def tallied(self, work: Callable[[], object]) -> Work:
        """What something more computes that is done with the trainer."""
        with without_numbers(), LiveMemory(), Tally() as tally:  # the former answers what a run asks of its numbers
            work()
        return tally.work


def demand_of(run: Run, data: TrainingData, requests: Sequence[SampleRequest]) -> Demand:
    """Of the largest batch, and of the largest picture that is sampled."""
    size, batch = max(fullest_passes(run, data), key=lambda each: each[0][0] * each[0][1] * each[1])
    demand = Demand(size, batch, len(data.material.pictures))
    if not requests:
        return demand
    largest = max(requests, key=lambda request: request.width * request.height)
    return replace(
        demand,
        previews=min(len(requests), data.material.datasets[0].buckets.train_batch_size),
        preview_size=(largest.width, largest.height),
        guided=any(request.scale > 1 for request in requests),
    )


@dataclass(frozen=True)
class _Process:
    """Stands in for accelerate's: a process on the meta device that says nothing."""

    process_index: int
    num_processes: int
    device: torch.device = META
    is_main_process: bool = False


def dry_run(
    run: Run, length: Length, demand: Demand, memory: LiveMemory, optimizer_cost: tuple[float, float]
) -> MetaRun:
    """Go through the run's phases.

    Args:
        memory: counts; not yet open.
        optimizer_cost: bytes for each trained value: what the optimizer keeps, and what an update takes beside.
    """
    without_weights = replace(
        run,
        config=_weightless(run.config),
        accelerator=cast("Accelerator", _Process(run.rank, run.processes)),
    )
    with without_numbers():
        dry = _DryRun(without_weights, length, demand, memory)
        dry.cache()
        dry.train(*optimizer_cost)
        if run.config.training.cuda_graphs and obstacle_of(run, dry.trainer.network) is None:
            dry.record()
        if demand.previews:
            dry.preview()
    return MetaRun(without_weights, demand, dry.phases, dry.trainer, optimizer_cost[0], dry.conditioning)


class _DryRun:
    """Goes through the phases, and notes the parts of each."""

    def __init__(self, run: Run, length: Length, demand: Demand, memory: LiveMemory) -> None:
        self.run, self.length, self.demand, self.memory = run, length, demand, memory
        self.phases: list[Phase] = []
        self.held: dict[str, int] = {}
        """Bytes of what the run holds at this point."""
        self.sizes: dict[Part, int] = {}
        """Bytes of the parts that have been used. They stay here, since they weigh nothing."""
        self.model = load_model(run.config.model, run.dtype, META)
        data = run.config.data
        self.caches_latents = data.cache_latents
        self.caches_texts = data.cache_text_encoder_outputs
        self.conditioning: Conditioning | None = None

    def cache(self) -> None:
        """Encode what the run encodes beforehand, and drop what it then does without."""
        config = self.run.config
        if self.caches_latents:
            self._load("vae")
            pixels = blank_pixels(config.data.vae_batch_size, self.demand.size)
            self._note(LATENTS, lambda: self.model.encode_images(pixels))
        if self.caches_texts:
            self._load("text_encoders")
            size = config.data.text_encoder_batch_size or CAPTIONS_AT_A_TIME
            prompts = [""] * min(size, self.demand.captions)
            self._note(CAPTIONS, lambda: self.model.encode_prompts(prompts))
            self.conditioning = self.model.encode_prompts([""] * self.demand.batch)
        self._drop_encoders()

    def train(self, kept: float, temporary: float) -> None:
        """One step; the arguments are the optimizer's bytes for each trained value."""
        if not self.caches_latents:
            self._load("vae")
        if not self.caches_texts:
            self._load("text_encoders")
        self._load("unet")
        network = self._network(kept)
        if not self.caches_latents:
            pixels = blank_pixels(self.demand.batch, self.demand.size)
            self._note(ENCODING, lambda: self.model.encode_images(pixels))
        network.train()
        batch = blank_batch(self.run.config, self.model, self.demand.size, self.demand.batch, self.conditioning)
        self._note(STEP, lambda: self.trainer.accumulate(batch))
        values = sum(group.values.numel() for group in self.trainer.groups)
        self._append("update", {TEMPORARIES: round(temporary * values)})

    def record(self) -> None:
        """Keep the step's activations a second time: a recording's memory stays beside that of ordinary passes."""
        step = next(phase for phase in self.phases if phase.name == STEP)
        step.parts[RECORDED] = step.parts[ACTIVATIONS]

    def preview(self) -> None:
        """A denoising step of the largest pictures, and their decoding."""
        demand = self.demand
        rows = demand.previews * (2 if demand.guided else 1)
        self.trainer.network.train(False)
        self._load("text_encoders")
        conditioning = self.model.encode_prompts([""] * rows)
        if self.caches_texts:
            self._drop_encoders()
        noisy, t = (
            blank_latents(self.model, rows, demand.preview_size),
            torch.zeros(rows, dtype=torch.long, device=META),
        )
        geometry = torch.zeros(rows, 6, device=META)
        with torch.no_grad():
            self._note(PREVIEW, lambda: self.model.predict(noisy, t, conditioning, geometry))
        self._load("vae")
        latents = blank_latents(self.model, demand.previews, demand.preview_size)
        self._note(DECODING, lambda: self.model.decode_latents(latents))

    def _network(self, kept: float) -> Network:
        """The network with its trainer."""
        hosts = trained_hosts(self.run, self.model)
        network = build_network(self.run.config.network, hosts, self.model.family, self.run.seed)
        self.trainer = build_trainer(self.run, self.model, network, self.length)
        groups, ema = self.trainer.groups, self.trainer.ema
        buffers = [buffer for group in groups for buffer in (group.values, group.gradients)]
        trained = self.memory.hold([*buffers, *(ema.averages if ema is not None else ())])
        self.held[NETWORK] = trained + round(kept * sum(group.values.numel() for group in groups))
        return network

    def _load(self, part: Part) -> None:
        """Let a part be in memory."""
        if part not in self.sizes:
            self.sizes[part] = self._size_of_vae() if part == "vae" else self._size_of_hosts(part)
        self.held[WEIGHTS[part]] = self.sizes[part]

    def _size_of_hosts(self, part: Part) -> int:
        hosts = self.model.hosts([part]).values()
        return self.memory.hold(tensor for host in hosts for tensor in (*host.parameters(), *host.buffers()))

    def _size_of_vae(self) -> int:
        """By what is there after its first use, since nothing attaches to it."""
        pixels = blank_pixels(1, self.demand.size)
        with self.memory:
            before = self.memory.live
            self.model.encode_images(pixels)
            return self.memory.live - before

    def _drop_encoders(self) -> None:
        """As `library.training.data.cache_all` does."""
        if self.caches_latents:
            self.held.pop(WEIGHTS["vae"], None)
        if self.caches_texts and not self.run.config.network.base_weights:
            self.held.pop(WEIGHTS["text_encoders"], None)

    def _note(self, name: str, work: Callable[[], object]) -> None:
        """Do a phase's work and keep what it took."""
        self.memory.restart()
        before = self.memory.live
        with self.memory, Tally() as tally:
            work()
        self._append(name, {ACTIVATIONS: self.memory.peak - before}, tally.work)

    def _append(self, name: str, parts: dict[str, int], work: Work | None = None) -> None:
        self.phases.append(Phase(name, {**self.held, **parts}, work if work is not None else Counter()))


def _weightless(config: Config) -> Config:
    """The configuration without what needs the real device; without blocks_to_swap the run takes more memory, see docs/memory.md."""
    return replace(
        config,
        model=replace(config.model, attention="sdpa", blocks_to_swap=None),
        training=replace(config.training, torch_compile=False),
    )


@contextmanager
def without_numbers() -> Iterator[None]:
    """Within the block the run's code works on the meta device, leaves the random numbers as they are, and says nothing: what
    there is to warn of is said by the real run.
    """
    log = logging.getLogger("dojo")
    former, log.disabled = log.disabled, True
    try:
        with torch.random.fork_rng(devices=[]), fused_attention():
            yield
    finally:
        log.disabled = former
