"""What the caches lack, as numbers: a million pictures make no list of objects. Letter: J jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from library.data.cache.keys import text_key
from library.data.cache.shards import packed
from library.data.cache.store import TensorCache
from library.data.dataset import TrainingData
from library.data.examples import Material, all_placements, key_of_latents
from library.data.index.pictures import Picture
from library.data.pictures.placement import Placement, centred

ASKED_AT_ONCE = 8192
"""Keys that a cache is asked for in one call."""

READ_AT_START = 1 << 30
"""Bytes that are read and checked before a run; beyond these, that the index names an entry has to do: a day of reading is no
beginning, and what is damaged is still noticed when it is used."""

VARIANTS = 2
"""Upright and mirrored."""

SHOWN_AFTER = 2
"""Seconds after which a bar is worth showing."""


@dataclass(frozen=True)
class Job:
    """One picture to encode."""

    key: str
    material: Material
    index: int
    """Of the picture in the material."""
    picture: Picture
    placement: Placement


@dataclass(frozen=True, eq=False)
class Jobs(Sequence[Job]):
    """Pictures with a placement each, made when they are asked for."""

    data: TrainingData
    fingerprint: str
    """Of the VAE and its settings."""
    numbers_J: npt.NDArray[np.int64]
    """VARIANTS times the picture, plus the variant; the held-out pictures count on from those that are trained."""

    def __len__(self) -> int:
        return len(self.numbers_J)

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice | npt.NDArray[Any]) -> Jobs: ...

    def __getitem__(self, index: Any) -> Job | Jobs:
        """One of them; with a slice, or an array of places or truths, those."""
        if not isinstance(index, int):
            return replace(self, numbers_J=self.numbers_J[index])
        material, picture_index, variant = self._parts(int(self.numbers_J[index]))
        picture, size = material.pictures[picture_index], material.sizes[picture_index]
        if material is self.data.material:
            placement = all_placements(picture, size, material.subset(picture).images)[variant]
        else:
            placement = centred(picture.size, size)
        key = key_of_latents(material, picture, placement, self.fingerprint)
        return Job(key, material, picture_index, picture, placement)

    def __iter__(self) -> Iterator[Job]:
        return (self[place] for place in range(len(self)))

    def lacking(self, cache: TensorCache, checked: bool = False, progress: bool = False) -> Jobs:
        """Those whose latents the cache lacks; of several that have one key, the first.

        Args:
            checked: what is there is read, up to READ_AT_START, so that damaged entries count as lacking.
            progress: show a bar with the time left, if it takes some.
        """
        asked = _Asked(cache, READ_AT_START if checked else 0)
        lacking_J = np.zeros(len(self), bool)
        keys = []
        with tqdm(
            total=len(self), desc="looking into the cache", unit="picture", delay=SHOWN_AFTER, disable=not progress
        ) as bar:
            for start in range(0, len(self), ASKED_AT_ONCE):
                block = [job.key for job in self[start : start + ASKED_AT_ONCE]]
                lacks = asked.lacks(block)
                lacking_J[start : start + ASKED_AT_ONCE] = lacks
                keys.append(packed(block)[lacks])
                bar.update(len(block))
        different = np.unique(np.concatenate(keys).view("S20"), return_index=True)[1] if keys else np.zeros(0, int)
        return self[np.flatnonzero(lacking_J)[np.sort(different)]]

    def batches(self, batch_size: int) -> Iterator[list[Job]]:
        """So many of one training size at a time, in order of the sizes."""
        for members in self._of_one_size():
            for start in range(0, len(members), batch_size):
                yield list(self[members[start : start + batch_size]])

    def _of_one_size(self) -> list[npt.NDArray[np.int64]]:
        """Places of the jobs of each training size, in order of the sizes."""
        sizes_J = np.fromiter((self._packed_size(number) for number in self.numbers_J.tolist()), np.int64, len(self))
        order = np.argsort(sizes_J, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(sizes_J[order])) + 1)

    def _parts(self, number: int) -> tuple[Material, int, int]:
        """The material, the picture's place in it, and the variant."""
        index, variant = divmod(number, VARIANTS)
        trained = len(self.data.material.pictures)
        if index < trained:
            return self.data.material, index, variant
        assert self.data.validation is not None
        return self.data.validation.material, index - trained, variant

    def _packed_size(self, number: int) -> int:
        material, index, _ = self._parts(number)
        width, height = material.sizes[index]
        return int(width) << 32 | int(height)


def latent_jobs(data: TrainingData, fingerprint: str) -> Jobs:
    """Every picture and placement that the run uses."""
    pictures = data.material.pictures
    shown = np.flatnonzero(np.asarray(data.repeats) > 0)
    mirrored = np.zeros(len(pictures), bool)
    datasets_N, subsets_N = pictures.of_subsets("dataset"), pictures.of_subsets("subset")
    for number, dataset in enumerate(data.material.datasets):
        for index, subset in enumerate(dataset.subsets):
            mirrored[(datasets_N == number) & (subsets_N == index)] = subset.images.flip_aug
    numbers = [shown * VARIANTS, (shown * VARIANTS + 1)[mirrored[shown]]]
    held_out = 0 if data.validation is None else len(data.validation)
    held = (len(pictures) + np.arange(held_out)) * VARIANTS
    return Jobs(data, fingerprint, np.concatenate([np.sort(np.concatenate(numbers)), held]).astype(np.int64))


def captions_lacking(captions: Sequence[str], fingerprint: str, cache: TensorCache, checked: bool = False) -> list[str]:
    """The captions whose encoding the cache lacks; `checked` as for `Jobs.lacking`."""
    asked = _Asked(cache, READ_AT_START if checked else 0)
    found: list[str] = []
    for start in range(0, len(captions), ASKED_AT_ONCE):
        block = captions[start : start + ASKED_AT_ONCE]
        lacks = asked.lacks([text_key(caption, fingerprint) for caption in block])
        found += [caption for caption, lacking in zip(block, lacks) if lacking]
    return found


@dataclass
class _Asked:
    """A cache that is asked for many keys, and how many bytes of it may still be read meanwhile."""

    cache: TensorCache
    readable: int

    def lacks(self, keys: list[str]) -> npt.NDArray[np.bool_]:
        sizes = self.cache.sizes(keys)
        lacking = sizes == 0
        self.readable -= int(sizes.sum())
        if self.readable >= 0:
            for place in np.flatnonzero(~lacking):
                lacking[place] = self.cache.get(keys[place]) is None
        return lacking
