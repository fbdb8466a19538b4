"""Filling the caches: every picture and every caption that a run will ask for is encoded once, in batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from library.core.errors import Exit, UserError, raise_all
from library.core.runtime import available_cores
from library.data.cache.jobs import Job, Jobs, captions_lacking, latent_jobs
from library.data.cache.keys import text_key
from library.data.cache.store import TensorCache, Tensors
from library.data.dataset import TrainingData
from library.data.examples import Encoded, load_pixels, placement_varies
from library.data.pictures.room import Room
from library.data.types import BrokenLatents, Conditioning, LatentDistribution

log = logging.getLogger("dojo")

BATCHES_AHEAD = 2
"""Batches whose pictures are decoded while one is encoded."""

CAPTIONS_AT_A_TIME = 16

MOST_FILLINGS = 3
"""Of a cache that somebody goes on deleting."""

MOST_NAMED = 100
"""Pictures that are named where many cannot be read."""


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
        UserErrors: options that make every showing of a picture different; or, when all others are cached, the files that are
            gone or changed.
        UserError: a picture whose latents are not finite, with `Exit.BROKEN_VALUES`; the cache cannot be read or written.
    """
    refuse_varying_pictures(data)
    jobs = latent_jobs(data, fingerprint)[_share(data, cache)]
    _until_whole(cache, lambda: _fill(jobs, encode, cache, batch_size, progress))
    return data.with_latents(Encoded(cache, fingerprint))


def _fill(
    jobs: Jobs, encode: Callable[[Tensor], LatentDistribution], cache: TensorCache, batch_size: int, progress: bool
) -> None:
    missing, failures = jobs.lacking(cache, checked=True, progress=progress), Failures()
    with (
        _flushed(cache),
        ThreadPoolExecutor(available_cores()) as readers,
        ThreadPoolExecutor(1) as writer,
        tqdm(total=len(missing), desc="caching latents", unit="picture", disable=not progress or not missing) as bar,
    ):
        loaded = _loaded_ahead(missing.batches(batch_size), readers, failures)
        for batch in _kept_behind(_encoded(loaded, encode), cache, writer):
            bar.update(len(batch))
    failures.tell()


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
    captions = data.captions_in_use()[_share(data, cache)]
    _until_whole(cache, lambda: _fill_texts(captions, encode, fingerprint, cache, batch_size, progress))
    return data.with_texts(Encoded(cache, fingerprint))


def _fill_texts(
    captions: Sequence[str],
    encode: Callable[[Sequence[str]], Conditioning],
    fingerprint: str,
    cache: TensorCache,
    batch_size: int | None,
    progress: bool,
) -> None:
    missing = captions_lacking(captions, fingerprint, cache, checked=True)
    size = batch_size or CAPTIONS_AT_A_TIME
    with (
        _flushed(cache),
        tqdm(total=len(missing), desc="caching captions", unit="caption", disable=not progress or not missing) as bar,
    ):
        for start in range(0, len(missing), size):
            batch = missing[start : start + size]
            conditioning = {name: tensor.detach().cpu() for name, tensor in encode(batch).items()}
            for place, caption in enumerate(batch):
                entry = {name: tensor[place].clone() for name, tensor in conditioning.items()}
                _require_finite(entry, caption)
                cache.put(text_key(caption, fingerprint), entry)
            bar.update(len(batch))


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


def _until_whole(cache: TensorCache, fill: Callable[[], None]) -> None:
    """Fill the cache, and again where files of it were removed meanwhile. Then it is held open: removing them does no more harm.

    Raises:
        UserError: they were removed each time.
    """
    for filling in range(1, MOST_FILLINGS + 1):
        fill()
        if cache.hold():
            return
        if filling < MOST_FILLINGS:
            log.warning(
                "files of the cache in %s were removed while it was filled; what is lacking is made anew", cache.folder
            )
    raise UserError(
        f"files of the cache in {cache.folder} were removed while it was filled, {MOST_FILLINGS} times one after another. See "
        "what empties that folder, name another cache_dir, or cache in memory (cache_latents instead of "
        "cache_latents_to_disk)."
    )


def _share(data: TrainingData, cache: TensorCache) -> slice:
    """What this process encodes: by the items' places among all, so that nobody depends on what others have done yet."""
    return slice(None) if cache.folder is None else slice(data.rank, None, data.processes)


@contextmanager
def _flushed(cache: TensorCache) -> Iterator[None]:
    """Whatever ends the block, what was put is on the disk."""
    try:
        yield
    finally:
        cache.flush()


class Failures:
    """Pictures that could not be read although they passed the checks: told together when all others are cached."""

    def __init__(self) -> None:
        self.count = 0
        self._messages: list[str] = []

    def add(self, error: UserError) -> None:
        """One more."""
        self.count += 1
        if len(self._messages) < MOST_NAMED:
            self._messages.append(str(error))

    def tell(self) -> None:
        """Raise `UserErrors` where there is one."""
        more = self.count - len(self._messages)
        raise_all([*self._messages, *([f"{more} more pictures likewise."] if more else [])])


Loaded = tuple[Tensor, Tensor | None]
"""A picture's pixels (3, H, W) and its mask (1, h, w)."""


def _loaded_ahead(
    batches: Iterable[list[Job]], readers: ThreadPoolExecutor, failures: Failures
) -> Iterator[tuple[list[Job], list[Loaded]]]:
    """Each batch with its pictures, decoded in threads while earlier batches are encoded; what cannot be read is left out.

    The threads are the caller's to end: an abandoned generator that waited for its own when Python's garbage collector found
    it could stop the whole process, if that was while another thread was being started.
    """
    room = Room()
    waiting: deque[tuple[list[Job], list[Future[Loaded | UserError]]]] = deque()
    for batch in batches:
        waiting.append((batch, [readers.submit(_load, job, room) for job in batch]))
        if len(waiting) > BATCHES_AHEAD:
            yield _finished(*waiting.popleft(), failures)
    while waiting:
        yield _finished(*waiting.popleft(), failures)


def _finished(
    batch: list[Job], loading: list[Future[Loaded | UserError]], failures: Failures
) -> tuple[list[Job], list[Loaded]]:
    jobs, loaded = [], []
    for job, future in zip(batch, loading):
        result = future.result()
        if isinstance(result, UserError):
            failures.add(result)
        else:
            jobs.append(job)
            loaded.append(result)
    return jobs, loaded


def _load(job: Job, room: Room) -> Loaded | UserError:
    with room.taken(job.picture.size):
        try:
            return load_pixels(job.material, job.picture, job.placement)
        except UserError as error:
            return error


Entries = dict[str, Tensors]
"""What goes into the cache, by key."""


def _encoded(
    batches: Iterable[tuple[list[Job], list[Loaded]]], encode: Callable[[Tensor], LatentDistribution]
) -> Iterator[Entries]:
    for jobs, loaded in batches:
        if jobs:
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
