"""Which pictures are trained, which are held out, and how often each is shown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset
from library.core.errors import UserError
from library.core.randomness import derived_seed
from library.data.index.pictures import Pictures


def subsets_that_train(pictures: Pictures, datasets: Sequence[Dataset]) -> list[bool]:
    """Of each of `pictures.subsets`, whether its pictures are neither of regularisation nor of a dataset that only validates."""
    return [not facts.is_reg and datasets[facts.dataset].buckets.validation_split < 1 for facts in pictures.subsets]


def hold_out(pictures: Pictures, datasets: Sequence[Dataset], seed: int) -> tuple[Pictures, Pictures]:
    """Pictures for training and pictures for validation.

    A picture is known by its bytes: copies of it, in whichever dataset, are all on one side. Each dataset with a
    `validation_split` holds out that share of its different pictures, at least one, chosen by its `validation_seed`
    (unset: `seed`); what any dataset holds out, no dataset trains. A dataset with a split of 1 only validates.
    Regularisation pictures are never held out.

    Raises:
        UserError: a split cannot be made, or leaves nothing to train.
    """
    datasets_N, is_reg_N = pictures.of_subsets("dataset"), pictures.of_subsets("is_reg").astype(bool)
    contents_N = pictures.contents_N
    held = [
        _chosen(np.unique(contents_N[(datasets_N == number) & ~is_reg_N]), dataset, seed)
        for number, dataset in enumerate(datasets)
    ]
    held_N = np.isin(contents_N, np.concatenate([np.zeros(0, contents_N.dtype), *held]))
    validates_N = np.array([dataset.buckets.validation_split > 0 for dataset in datasets] or [False])[datasets_N]
    if not held_N.any():
        return pictures, pictures[:0]
    if not (~held_N & ~is_reg_N).any():
        raise UserError("validation_split: every training picture is held out, nothing is left to train; lower it.")
    return pictures[~held_N], pictures[held_N & ~is_reg_N & validates_N]


def _chosen(contents: NDArray[np.bytes_], dataset: Dataset, seed: int) -> NDArray[np.bytes_]:
    """Contents, of those that are given sorted and once each, that the dataset holds out."""
    split = dataset.buckets.validation_split
    if split <= 0 or not len(contents):
        return contents[:0]
    if split >= 1:
        return contents
    if len(contents) < 2:
        raise UserError(
            f"validation_split {split}: the dataset of {dataset.subsets[0].where} has one picture (copies not counted); "
            "a split needs at least two. Add pictures or set validation_split = 0."
        )
    chosen_by = seed if dataset.buckets.validation_seed is None else dataset.buckets.validation_seed
    numbers = (int.from_bytes(content.ljust(20, b"\0")) for content in contents.tolist())
    ranks = np.array([derived_seed(chosen_by, "validation_split", number) for number in numbers])
    return contents[np.argsort(ranks, kind="stable")[: min(len(contents) - 1, max(1, round(split * len(contents))))]]


def balanced_repeats(pictures: Pictures) -> NDArray[np.int32]:
    """(N,) how often each picture is shown in an epoch.

    In each dataset, regularisation pictures are taken in order with their own repeats and then once more each in turn,
    until there are as many of them as training pictures with repeats; what is beyond that is left out (0).
    """
    repeats_N = pictures.of_subsets("repeats").astype(np.int32)
    datasets_N, is_reg_N = pictures.of_subsets("dataset"), pictures.of_subsets("is_reg").astype(bool)
    for dataset in np.unique(datasets_N[is_reg_N]):
        regularisation = np.flatnonzero((datasets_N == dataset) & is_reg_N)
        wanted = int(repeats_N[(datasets_N == dataset) & ~is_reg_N].sum(dtype=np.int64))
        before = np.cumsum(repeats_N[regularisation], dtype=np.int64) - repeats_N[regularisation]
        own = np.clip(wanted - before, 0, repeats_N[regularisation])
        rounds, rest = divmod(wanted - int(own.sum()), len(regularisation))
        repeats_N[regularisation] = own + rounds + (np.arange(len(regularisation)) < rest)
    return repeats_N
