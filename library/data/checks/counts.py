"""Findings about numbers: too few pictures, too many, and some that are shown far more often than others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from library.config.dataset import Dataset, Subset
from library.core.wording import how_many
from library.data.checks.findings import Finding, Severity
from library.data.index.pictures import Pictures
from library.data.split import subsets_that_train

FEWEST = 10

ADVISED_FOR_A_CHARACTER, ADVISED_FOR_A_STYLE = 15, 20

MANY = 100
"""For a character; more seldom help."""

FEW_TO_REPEAT = 5
"""Fewer pictures are learnt by heart where they are repeated."""

UNBALANCED = 3
"""Times as often as another, from which it is worth saying."""

ADVICE = (
    f"Advised: {ADVISED_FOR_A_CHARACTER} for a character, {ADVISED_FOR_A_STYLE} for a style. For a character the same person in "
    "varied poses, angles and light; for a fighting style various practitioners, the technique clear, full body."
)


@dataclass
class Class:
    """The pictures of one folder or metadata file, which are one concept or one look of it."""

    path: Path
    pictures: int = 0
    samples: int = 0
    """Pictures in an epoch, with their repeats."""
    repeats: frozenset[int] = frozenset()

    def __str__(self) -> str:
        times = f" with num_repeats {min(self.repeats)}" if len(self.repeats) == 1 else ""
        shown = "once" if self.samples == 1 else f"{self.samples} times"
        return f"{shown} an epoch ({how_many(self.pictures, 'picture')}{times})"


def about_counts(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """What is to be said of how many pictures there are, without those held out, and how often each is shown."""
    subsets = [datasets[facts.dataset].subsets[facts.subset] for facts in pictures.subsets]
    yield from _about_number(pictures, datasets, subsets)
    yield from _about_balance(pictures, datasets, subsets)
    yield from _about_regularisation(pictures, datasets)


def _about_number(pictures: Pictures, datasets: Sequence[Dataset], subsets: Sequence[Subset]) -> Iterator[Finding]:
    if all(subset.is_reg for dataset in datasets for subset in dataset.subsets):
        advice = "Set train_data_dir or dataset_config."
        yield Finding("no pictures", "error", "", "No training data are given.", advice)
        return
    train = subsets_that_train(pictures, datasets)
    if not any(train) and not pictures.of_subsets("is_reg").all():
        message = "There is not one picture to train on: validation_split = 1 holds all of them out."
        yield Finding("no pictures", "error", "", message, "Lower it, or add a dataset that trains.")
        return
    triggers = sorted({subset.trigger_word for subset, counts in zip(subsets, train) if counts})
    if all(triggers) and len(triggers) > 1:
        for trigger in triggers:
            of_trigger = [counts and subset.trigger_word == trigger for subset, counts in zip(subsets, train)]
            yield from _number_of(pictures, of_trigger, f" of '{trigger}'")
    else:
        yield from _number_of(pictures, train, "")


def _number_of(pictures: Pictures, counts_of_subset: Sequence[bool], whose: str) -> Iterator[Finding]:
    """Findings about the different pictures of some of the subsets."""
    counted_N = np.array(counts_of_subset or [False])[pictures.rows_N["subset"]]
    count = len(np.unique(pictures.contents_N[counted_N]))
    there_are = (
        f"There {'is one' if count == 1 else f'are {count} different'} {'picture' if count == 1 else 'pictures'}"
    )
    if count == 0:
        message, advice = (
            f"There is not one picture{whose} to train on.",
            "Check the folders, and what is left out of them.",
        )
        yield Finding("no pictures", "error", "", message, advice)
    elif count < ADVISED_FOR_A_CHARACTER:
        severity: Severity = "warning" if count < FEWEST else "notice"
        yield Finding("few pictures", severity, "", f"{there_are}{whose} to train on.", ADVICE)
    elif count < ADVISED_FOR_A_STYLE:
        message = f"{there_are}{whose} to train on: enough for a character, few for a style."
        yield Finding("few pictures", "notice", "", message, ADVICE)
    elif count > MANY:
        advice = (
            f"More than {MANY} seldom help a character: variety and exact captions do. Leave out near copies and the weakest "
            "ones. A style, or several concepts, may well want so many."
        )
        yield Finding("many pictures", "notice", "", f"{there_are}{whose} to train on.", advice)


def _about_balance(pictures: Pictures, datasets: Sequence[Dataset], subsets: Sequence[Subset]) -> Iterator[Finding]:
    """Folders that are shown far less often than the one that is shown most."""
    classes: dict[Path, Class] = {}
    train = subsets_that_train(pictures, datasets)
    for facts, subset, trains, count in zip(pictures.subsets, subsets, train, _pictures_of_subsets(pictures)):
        path = subset.image_dir or subset.metadata_file
        if not subset.teaches or not trains or not count or path is None:
            continue
        each = classes.setdefault(path, Class(path))
        each.pictures += count
        each.samples += count * facts.repeats
        each.repeats |= {facts.repeats}
    most = max(classes.values(), key=lambda each: each.samples, default=None)
    for each in classes.values():
        if most is not None and most.samples >= UNBALANCED * each.samples:
            message = f"is shown {each}, but {most.path} {most}."
            yield Finding("class imbalance", "notice", str(each.path), message, _how_to_balance(each, most))


def _how_to_balance(each: Class, most: Class) -> str:
    """How both are shown about equally often."""
    if each.pictures < FEW_TO_REPEAT:
        there_are = "This one picture" if each.pictures == 1 else f"These {each.pictures} pictures"
        return (
            f"{there_are}, repeated as often, would be learnt by heart: what it is to teach needs more pictures, not more "
            "repeats. If it is there by mistake, leave it out."
        )
    factor = most.samples / each.samples
    if len(each.repeats) > 1:
        return f"What is shown more often is learnt more: multiply its num_repeats by {factor:.0f} to balance them."
    repeats = round(min(each.repeats) * factor)
    named = re.match(r"\d+_(.+)", each.path.name)
    renamed = f" (or name it '{repeats}_{named[1]}')" if named else ""
    fewer = min(most.repeats) / factor
    lowered = f", or num_repeats = {round(fewer)} for the other," if len(most.repeats) == 1 and fewer >= 1 else ""
    return f"What is shown more often is learnt more: num_repeats = {repeats}{renamed}{lowered} balances them."


def _about_regularisation(pictures: Pictures, datasets: Sequence[Dataset]) -> Iterator[Finding]:
    """Datasets whose few regularisation pictures are shown far more often than what is trained."""
    counts = _pictures_of_subsets(pictures)
    for number, dataset in enumerate(datasets):
        mine = [(facts, count) for facts, count in zip(pictures.subsets, counts) if facts.dataset == number]
        regularising = sum(count for facts, count in mine if facts.is_reg)
        teaching = sum(count for facts, count in mine if not facts.is_reg)
        samples = sum(count * facts.repeats for facts, count in mine if not facts.is_reg)
        if regularising and teaching >= UNBALANCED * regularising:
            where = next(subset.where for subset in dataset.subsets if subset.is_reg)
            shown = samples / regularising
            times = f"{shown:.0f}" if shown.is_integer() else f"about {shown:.1f}"
            message = (
                f"{how_many(regularising, 'regularisation picture')} for {how_many(teaching, 'training picture')}: each is shown "
                f"{times} times an epoch."
            )
            advice = (
                "They are learnt by heart. Take as many as training pictures, or use prior_prediction_rate instead."
            )
            yield Finding("class imbalance", "notice", where, message, advice)


def _pictures_of_subsets(pictures: Pictures) -> list[int]:
    """How many pictures each of `pictures.subsets` has."""
    counts: NDArray[np.int64] = np.bincount(pictures.rows_N["subset"], minlength=len(pictures.subsets))
    return counts.tolist()
