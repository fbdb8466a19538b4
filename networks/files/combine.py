"""Several LoRA files, of whatever kinds, put together into one LoRA, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from library.core.errors import UserError
from library.lora_files.low_rank.extract import decomposed_difference
from library.lora_files.low_rank.factors import Decomposition, Factors, decomposed, joined
from library.lora_files.low_rank.resize import RankRule
from library.lora_files.names.keys import Site
from library.lora_files.names.module_names import of_key
from library.lora_files.names.places import block_name
from networks.by_layer.layers import Names, fitting
from networks.files.changes import Change, FileOfChanges

SiteOf = Callable[[str], Site]
"""The site of a key, for kinds of networks that are more than two factors."""


@dataclass(frozen=True, eq=False)
class Ingredient:
    """A file, and how much of it is taken."""

    file: FileOfChanges
    strength: float
    keys: frozenset[str]
    """The sites that are taken."""


@dataclass(frozen=True, eq=False)
class Combined:
    """One weight's change in the result."""

    key: str
    factors: Factors
    energy: float
    """Squared Frobenius norm of the sum; not computed where nothing is cut off."""
    kept: float
    """Of what the result has of it."""
    former: int | None
    """Rank of the sum where all its parts are LoRAs."""


def ingredient(file: FileOfChanges, strength: float, only: Sequence[str]) -> Ingredient:
    """A file with its strength.

    Args:
        only: texts as in `network_layers`; none: every layer.

    Raises:
        UserError: a text that fits no layer of the file.
    """
    if not only:
        return Ingredient(file, strength, frozenset(file.by_site))
    names = {key: _names(key, file.family) for key in file.by_site}
    keys = {text: fitting(text, names) for text in only}
    if nowhere := [text for text, found in keys.items() if not found]:
        blocks = ", ".join(sorted({called.block for called in names.values() if called.block}))
        raise UserError(
            f"--only '{nowhere[0]}' fits no layer of {file.path.as_posix()}, which has the blocks {blocks or 'of no UNet'} "
            "(docs/layers.md has the names)."
        )
    return Ingredient(file, strength, frozenset(key for found in keys.values() for key in found))


def keys_of(ingredients: Sequence[Ingredient]) -> list[str]:
    """The sites of the result, in the order of the files."""
    return list(dict.fromkeys(key for each in ingredients for key in each.file.by_site if key in each.keys))


def combined(ingredients: Sequence[Ingredient], site_of: SiteOf, rule: RankRule | None) -> Iterator[Combined]:
    """The sum of the changes, weight by weight.

    Args:
        rule: how many singular values to keep; None: exact, the ranks add up.

    Raises:
        UserError: files that do not fit together, or one that is no LoRA where the sum is to be exact.
    """
    for key in keys_of(ingredients):
        changes = [(each, each.file.change(key, site_of)) for each in ingredients if key in each.keys]
        yield _summed(key, changes, rule)


def highest_rank(ingredients: Sequence[Ingredient]) -> int:
    """The highest rank of an exact sum; 1 where none of the files is a LoRA."""
    downs = [
        [each.file.by_site[key].get("lora_down.weight") for each in ingredients if key in each.keys]
        for key in keys_of(ingredients)
    ]
    return max(1, *(sum(down.shape[0] for down in parts if down is not None) for parts in downs))


def summed_into(weight: Tensor, key: str, ingredients: Sequence[Ingredient], site_of: Callable[[Tensor], Site]) -> None:
    """Add the changes to an fp32 weight in place, one after the other.

    Args:
        site_of: the site with this weight in it, as kinds of networks see it that depend on the weight.

    Raises:
        UserError: a change does not fit the weight.
    """
    for each in ingredients:
        if key in each.keys:
            change = each.file.change(key, lambda _: site_of(weight))
            shape = tuple(change.shape) if isinstance(change, Tensor) else change.weight_shape
            if _bare(shape) != _bare(tuple(weight.shape)):
                raise UserError(
                    f"{each.file.path.as_posix()} is not for this model: {key} changes a weight of the shape {list(shape)}, and "
                    f"the model's is {list(weight.shape)}."
                )
            dense = change if isinstance(change, Tensor) else change.dense()
            weight.add_(dense.view(weight.shape), alpha=each.strength)


def _names(key: str, family: str) -> Names:
    module, block = of_key(key), block_name(key, family)
    texts = (key,) if module is None else (f"{module.host}.{module.path}", key)
    return Names(block if block[:1].isupper() else "", texts)


def _summed(key: str, changes: Sequence[tuple[Ingredient, Change]], rule: RankRule | None) -> Combined:
    shape = _one_shape(key, changes)
    dense = [(each, change) for each, change in changes if isinstance(change, Tensor)]
    thin = [(each, change) for each, change in changes if isinstance(change, Factors)]
    if dense and rule is None:
        raise UserError(
            f"{dense[0][0].file.path.as_posix()} is no LoRA of two factors, so that the sum cannot be exact. Give --rank: the sum "
            "is approximated by a LoRA of that rank."
        )
    parts = [Factors(part.up_OR * each.strength, part.down_RN, shape) for each, part in thin]
    if dense and rule is not None:
        total = sum((each.strength * change.view(shape) for each, change in dense), torch.zeros(shape))
        total += sum(part.dense() for part in parts)
        return _cut(key, decomposed_difference(total, rule.highest(shape)), rule, None)
    whole = joined(parts)
    if rule is None:
        return Combined(key, whole, 1.0, 1.0, whole.rank)
    return _cut(key, decomposed(whole), rule, whole.rank)


def _cut(key: str, found: Decomposition, rule: RankRule, former: int | None) -> Combined:
    rank = rule.rank(found.values_R, found.weight_shape)
    return Combined(key, found.truncated(rank), found.energy, found.kept(rank), former)


def _one_shape(key: str, changes: Sequence[tuple[Ingredient, Change]]) -> tuple[int, ...]:
    """The weight's shape.

    Raises:
        UserError: the files are for models of different shapes.
    """
    shapes = [tuple(change.shape) if isinstance(change, Tensor) else change.weight_shape for _, change in changes]
    if len({_bare(shape) for shape in shapes}) > 1:
        told = ", ".join(
            f"{list(shape)} in {each.file.path.name}" for shape, (each, _) in zip(shapes, changes, strict=True)
        )
        raise UserError(
            f"these LoRAs cannot be put together: they are for different models ({key} changes a weight of {told})."
        )
    return max(shapes, key=len)


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Some programs write the factors of a 1x1 convolution as matrices."""
    return shape[:2] if shape[2:] == (1, 1) else shape
