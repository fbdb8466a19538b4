"""Who trains: pictures held out for validation, and how often regularisation pictures are shown."""

from __future__ import annotations

from collections.abc import Sequence

from library.config.dataset import Dataset
from library.core.errors import UserError
from library.core.randomness import derived_seed
from library.data.index.sources import Picture


def hold_out(
    pictures: Sequence[Picture], datasets: Sequence[Dataset], seed: int
) -> tuple[list[Picture], list[Picture]]:
    """Pictures for training and pictures for validation.

    A picture is known by its bytes: copies of it, in whichever dataset, are all on one side. Each dataset with a
    `validation_split` holds out that share of its different pictures, at least one, chosen by its `validation_seed`
    (unset: `seed`); what any dataset holds out, no dataset trains. A dataset with a split of 1 only validates.
    Regularisation pictures are never held out.

    Raises:
        UserError: a split cannot be made, or leaves nothing to train.
    """
    held = {
        content
        for number, dataset in enumerate(datasets)
        for content in _chosen([p for p in pictures if p.dataset == number and not p.is_reg], dataset, seed)
    }
    training = [picture for picture in pictures if picture.content not in held]
    validation = [
        picture
        for picture in pictures
        if picture.content in held and not picture.is_reg and datasets[picture.dataset].buckets.validation_split > 0
    ]
    if not any(not picture.is_reg for picture in training):
        raise UserError("validation_split: every training picture is held out, nothing is left to train; lower it.")
    return training, validation


def _chosen(pictures: Sequence[Picture], dataset: Dataset, seed: int) -> list[str]:
    """Contents that the dataset holds out."""
    split = dataset.buckets.validation_split
    contents = sorted({picture.content for picture in pictures})
    if split <= 0 or not contents:
        return []
    if split >= 1:
        return contents
    if len(contents) < 2:
        raise UserError(
            f"validation_split {split}: the dataset of {dataset.subsets[0].where} has one picture (copies not counted); "
            "a split needs at least two. Add pictures or set validation_split = 0."
        )
    chosen_by = seed if dataset.buckets.validation_seed is None else dataset.buckets.validation_seed
    drawn = sorted(contents, key=lambda content: derived_seed(chosen_by, "validation_split", int(content, 16)))
    return drawn[: min(len(contents) - 1, max(1, round(split * len(contents))))]


def balanced_repeats(pictures: Sequence[Picture]) -> list[int]:
    """How often each picture is shown in an epoch.

    In each dataset, regularisation pictures are taken in order with their own repeats and then once more each in turn,
    until there are as many of them as training pictures with repeats; what is beyond that is left out (0).
    """
    repeats = [0 if picture.is_reg else picture.repeats for picture in pictures]
    for dataset in sorted({picture.dataset for picture in pictures}):
        regularisation = [i for i, p in enumerate(pictures) if p.dataset == dataset and p.is_reg]
        wanted = sum(repeats[i] for i, p in enumerate(pictures) if p.dataset == dataset and not p.is_reg)
        for index in regularisation:
            repeats[index] = min(pictures[index].repeats, wanted)
            wanted -= repeats[index]
        if regularisation:
            rounds, rest = divmod(wanted, len(regularisation))
            for place, index in enumerate(regularisation):
                repeats[index] += rounds + (place < rest)
    return repeats
