"""Filling the caches: every picture and every caption that a run will ask for is encoded once, in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from library.core.errors import Exit, UserError, raise_all
from library.core.runtime import available_cores
from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache, Tensors
from library.data.dataset import TrainingData
from library.data.examples import Encoded, Material, all_placements, key_of_latents, load_pixels, placement_varies
from library.data.index.sources import Picture
from library.data.pictures.placement import Placement, centred
from library.data.pictures.room import Room
from library.data.types import BrokenLatents, Conditioning, LatentDistribution

T = TypeVar("T")

BATCHES_AHEAD = 2
"""Batches whose pictures are decoded while one is encoded."""

CAPTIONS_AT_A_TIME = 16


@dataclass(frozen=True)
class Job:
    """One picture to encode."""

    key: str
    material: Material
    picture: Picture
    placement: Placement


def cache_latents(
    data: TrainingData,
    encode: Callable[[Tensor], LatentDistribution],
    *,
    fingerprint: str,
    cache: TensorCache,
    batch_size: int = 1,
    progress: bool = False,
) -> TrainingData:
    """Encode what the run needs and the cache lacks, and return the data that read from it.

    Args:
        data: as built, the validation pictures included.
        encode: pixels (B, 3, H, W) in [-1, 1] to their distribution, all finite; not called where nothing is missing.
        fingerprint: of the VAE and its settings.
        cache: to fill. On disk, each process encodes its share, and all must have finished before training begins; in
            memory each encodes everything.
        batch_size: pictures of one size encoded at a time.
        progress: show a bar with the time left (on one process).

    Raises:
        UserError: options that make every showing of a picture different, a file that is gone or changed; with
            `Exit.BROKEN_VALUES`, a picture whose latents are not finite.
    """
    refuse_varying_pictures(data)
    jobs = _share_of(data, cache, {job.key: job for job in latent_jobs(data, fingerprint)})
    missing = [job for job in jobs if cache.get(job.key) is None]
    with (
        ThreadPoolExecutor(available_cores()) as readers,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(missing), desc="caching latents", unit="picture", disable=not progress or not missing) as bar,
    ):
        loaded = _loaded_ahead(_batches(missing, batch_size), readers)
        for batch in _kept_behind(_encoded(loaded, encode), cache, writer):
            bar.update(len(batch))
    return data.with_latents(Encoded(cache, fingerprint))


def cache_texts(
    data: TrainingData,
    encode: Callable[[Sequence[str]], Conditioning],
    *,
    fingerprint: str,
    cache: TensorCache,
    batch_size: int | None = None,
    progress: bool = False,
) -> TrainingData:
    """Encode every caption that the run can produce and the cache lacks, and return the data that read from it.

    Arguments as for `cache_latents`; `encode` turns captions into conditioning with a batch axis.

    Raises:
        UserError: captions vary too much to encode them all, or an encoded caption is not finite.
    """
    captions = _share_of(data, cache, {text_key(caption, fingerprint): caption for caption in data.captions_in_use()})
    missing = [caption for caption in captions if cache.get(text_key(caption, fingerprint)) is None]
    size = batch_size or CAPTIONS_AT_A_TIME
    with tqdm(total=len(missing), desc="caching captions", unit="caption", disable=not progress or not missing) as bar:
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            conditioning = {name: tensor.detach().cpu() for name, tensor in encode(batch).items()}
            for place, caption in enumerate(batch):
                entry = {name: tensor[place].clone() for name, tensor in conditioning.items()}
                _require_finite(entry, caption)
                cache.put(text_key(caption, fingerprint), entry)
            bar.update(len(batch))
    return data.with_texts(Encoded(cache, fingerprint))


def refuse_varying_pictures(data: TrainingData) -> None:
    """Stop where latents cannot be cached because every showing of a picture differs.

    Raises:
        UserErrors: names the options and subsets.
    """
    raise_all(
        [
            f"cache_latents: {option} of {subset.where} changes the picture each time; turn one of the two off."
            for dataset in data.material.datasets
            for subset in dataset.subsets
            if (option := placement_varies(subset.images))
        ]
    )


def latent_jobs(data: TrainingData, fingerprint: str) -> Iterator[Job]:
    """Every picture and placement that the run uses."""
    material = data.material
    for index, picture in enumerate(material.pictures):
        if data.repeats[index]:
            for placement in all_placements(picture, material.sizes[index], material.subset(picture).images):
                yield _job(material, picture, placement, fingerprint)
    if data.validation is not None:
        held = data.validation.material
        for picture, size in zip(held.pictures, held.sizes):
            yield _job(held, picture, centred(picture.size, size), fingerprint)


def _job(material: Material, picture: Picture, placement: Placement, fingerprint: str) -> Job:
    return Job(key_of_latents(material, picture, placement, fingerprint), material, picture, placement)


def _share_of(data: TrainingData, cache: TensorCache, items: dict[str, T]) -> list[T]:
    """What this process encodes: by the items' places among all, so that nobody depends on what others have done yet."""
    listed = list(items.values())
    return listed if cache.folder is None else listed[data.rank :: data.processes]


def _batches(jobs: Sequence[Job], batch_size: int) -> Iterator[list[Job]]:
    """Jobs of one size together."""
    by_size: dict[tuple[int, int], list[Job]] = {}
    for job in jobs:
        by_size.setdefault(job.placement.target, []).append(job)
    for _, members in sorted(by_size.items()):
        for start in range(0, len(members), batch_size):
            yield members[start : start + batch_size]


Loaded = tuple[Tensor, Tensor | None]
"""A picture's pixels (3, H, W) and its mask (1, h, w)."""


def _loaded_ahead(
    batches: Iterable[list[Job]], readers: ThreadPoolExecutor
) -> Iterator[tuple[list[Job], list[Loaded]]]:
    """Each batch with its pictures, decoded in threads while earlier batches are encoded.

    The threads are the caller's to end: an abandoned generator that waited for its own when Python's garbage collector found
    it could stop the whole process, if that was while another thread was being started.
    """
    room = Room()
    waiting: deque[tuple[list[Job], list[Future[Loaded]]]] = deque()
    for batch in batches:
        waiting.append((batch, [readers.submit(_load, job, room) for job in batch]))
        if len(waiting) > BATCHES_AHEAD:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(batch: list[Job], loading: list[Future[Loaded]]) -> tuple[list[Job], list[Loaded]]:
    return batch, [future.result() for future in loading]


def _load(job: Job, room: Room) -> Loaded:
    with room.taken(job.picture.size):
        return load_pixels(job.material, job.picture, job.placement)


Entries = dict[str, Tensors]
"""What goes into the cache, by key."""


def _encoded(
    batches: Iterable[tuple[list[Job], list[Loaded]]], encode: Callable[[Tensor], LatentDistribution]
) -> Iterator[Entries]:
    for jobs, loaded in batches:
        yield _encode_pictures(jobs, loaded, encode)


def _encode_pictures(jobs: list[Job], loaded: list[Loaded], encode: Callable[[Tensor], LatentDistribution]) -> Entries:
    try:
        latents = encode(torch.stack([pixels for pixels, _ in loaded]))
    except BrokenLatents as error:
        raise error.told_of([str(job.picture.path) for job in jobs]) from error
    mean_BChw, std_BChw = latents.mean.detach().cpu(), latents.std.detach().cpu()
    entries: Entries = {}
    for place, (job, (_, mask)) in enumerate(zip(jobs, loaded)):
        entry = {"mean": mean_BChw[place].clone(), "std": std_BChw[place].clone()}
        entries[job.key] = entry if mask is None else {**entry, "mask": mask}
    return entries


def _kept_behind(batches: Iterable[Entries], cache: TensorCache, writer: ThreadPoolExecutor) -> Iterator[Entries]:
    """Each batch, written in a thread while later ones are encoded: a write waits for the disk."""

    def keep(entries: Entries) -> None:
        for key, tensors in entries.items():
            cache.put(key, tensors)

    waiting: deque[Future[None]] = deque()
    for entries in batches:
        waiting.append(writer.submit(keep, entries))
        if len(waiting) > BATCHES_AHEAD:
            waiting.popleft().result()
        yield entries
    for written in waiting:
        written.result()


def _require_finite(encoded: Tensors, caption: str) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in encoded.values() if tensor.is_floating_point()):
        raise UserError(
            f"the text encoders' output for the caption '{caption}' is not finite numbers. Where other captions fare alike, the "
            'model\'s file is damaged, or overflows in fp16: use mixed_precision = "bf16". Otherwise change the caption.',
            Exit.BROKEN_VALUES,
        )
