"""The changes that LoRA files of any kind make, weight by weight, without a model in memory.

A plain LoRA's change is its two factors. Any other kind's is what its own adapter says it is, built for this one weight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from library.core.errors import UserError
from library.core.randomness import torch_generator
from library.lora_files.low_rank.factors import PLAIN, Factors, factors_in_file
from library.lora_files.names.keys import Site
from library.lora_files.names.styles import DESCRIBED
from library.lora_files.reading import read_any_style, tensors_by_site
from networks.algorithm import Algorithm, Size
from networks.files.apply import DAMAGED, fitting_sizes, recognise, sizes_in_file
from networks.inject import UNREADABLE

log = logging.getLogger("dojo")

Change = Factors | Tensor
"""Factors, or the dense change in the weight's shape, fp32."""


@dataclass(frozen=True, eq=False)
class FileOfChanges:
    """A LoRA file under sd-scripts' names, its tensors mapped into memory."""

    path: Path
    metadata: Mapping[str, str]
    family: str
    by_site: Mapping[str, Mapping[str, Tensor]]
    """Key -> name after it -> tensor."""
    algorithm: Algorithm | None
    """None where every site is a plain LoRA."""
    sizes: Mapping[str, Size]
    """Of the sites that are the algorithm's."""

    def dtypes(self) -> set[torch.dtype]:
        """Types of the weights, alphas apart."""
        tensors = [tensor for site in self.by_site.values() for tensor in site.values()]
        return {tensor.dtype for tensor in tensors if tensor.is_floating_point() and tensor.dim() > 0}

    def change(self, key: str, site: Callable[[str], Site]) -> Change:
        """What the file does to one weight at strength 1.

        Args:
            site: of a key; asked where the change cannot be read off the tensors alone.

        Raises:
            UserError: the tensors make no sense, do not fit the site, or need the weight and the site has none.
        """
        try:
            factors = factors_in_file(self.by_site[key])
        except ValueError as error:
            raise UserError(f"{self.path.as_posix()}: {key}: {error}. {DAMAGED}") from error
        return self._computed(key, site(key)) if factors is None else factors

    @torch.no_grad()
    def _computed(self, key: str, site: Site) -> Tensor:
        tensors = self.by_site[key]
        if self.algorithm is None or key not in self.sizes:
            raise UserError(
                f"{self.path.as_posix()}: {key} holds {', '.join(sorted(tensors))}, which is of no kind that is known here."
            )
        if not all(tensor.float().isfinite().all() for tensor in tensors.values()):
            raise UserError(f"{self.path.as_posix()}: {key} holds values that are not finite. {DAMAGED}")
        named = {f"{key}.{name}": tensor for name, tensor in tensors.items()}
        try:
            size = fitting_sizes(self.algorithm, self.sizes, named)(site)
            assert size is not None
            adapter = self.algorithm.adapter(site, size, torch_generator(0, key))
            adapter.load(tensors)
            delta = adapter.delta().float()
        except (*UNREADABLE, UserError) as error:
            shape = list(site.module.weight.shape)
            raise UserError(
                f"{self.path.as_posix()}: {key} does not fit a weight of the shape {shape}: {error} Give the model that the "
                "LoRA is for, with --base or --into."
            ) from error
        if not delta.isfinite().all():
            raise UserError(
                f"{self.path.as_posix()}: what it changes depends on the model's own weights "
                f"({self.metadata.get('ss_network_module', 'by its kind')}). Give the model with --base, or merge into the "
                "checkpoint with --into."
            )
        return delta


def open_changes(path: Path, family: str | None = None, otherwise: str | None = None) -> FileOfChanges:
    """A LoRA file in whatever style of names.

    Args:
        family: where the user says it; None: told from the tensors.
        otherwise: what to take it for where it does not tell.

    Raises:
        UserError: it cannot be read, is of no kind that is known here, or damaged.
    """
    try:
        file = read_any_style(path, family)
    except UserError:
        if otherwise is None or family is not None:
            raise
        file = read_any_style(path, otherwise)
    if file.style != "kohya":
        log.info("%s has the names of %s: read as sd-scripts would name them", path.as_posix(), DESCRIBED[file.style])
    by_site = tensors_by_site(file.tensors)
    if all("lora_down.weight" in site and not site.keys() - PLAIN for site in by_site.values()):
        return FileOfChanges(path, file.metadata, file.family, by_site, None, {})
    algorithm = recognise(file.tensors, file.metadata, path)
    return FileOfChanges(path, file.metadata, file.family, by_site, algorithm, sizes_in_file(algorithm, file.tensors))


def check_family(files: Sequence[FileOfChanges], model: str | None = None, family: str | None = None) -> None:
    """
    Args:
        model, family: a model that they are to be for.

    Raises:
        UserError: they are for different families.
    """
    families = {file.family: file.path.as_posix() for file in reversed(files)}
    if model is not None and family is not None:
        families = {**families, family: model}
    if len(families) > 1:
        told = ", ".join(f"{path} is for {family}" for family, path in families.items() if path != model)
        raise UserError(
            f"these cannot be put together: {told}{f', and {model} is a model of the family {family}' if model else ''}."
        )
