"""The sites of a family, for tools that meet the keys of a LoRA file and have no model in memory."""

from __future__ import annotations

from functools import cached_property
from typing import cast

from library.core.errors import UserError
from library.lora_files.names.keys import Site
from library.lora_files.names.places import Place
from library.models.architecture import Family
from library.models.rewriting.stored_places import StoredPlace, open_model, published_places, stored_places


class SiteFinder:
    """Finds the site of a key: in a model on disk, with its weight, else in the family's published model, without one.

    Args:
        model: a single file, a folder or a name on the hub; None: the published model's shapes.
        family: that the model must be of.
    """

    def __init__(self, model: str | None, family: str) -> None:
        self.model = model
        self.family = cast(Family, family)

    def __call__(self, key: str) -> Site:
        """
        Raises:
            UserError: the model cannot be read, or has no such weight.
        """
        found: StoredPlace | Place | None = self._places.get(key)
        if found is None:
            model = self.model or f"a model of the family {self.family}"
            raise UserError(f"{model} has no {key}. Give with --base the model that the LoRA is for.")
        if isinstance(found, Place):
            return found.site()
        return found.place.site(found.read())

    @cached_property
    def _places(self) -> dict[str, StoredPlace] | dict[str, Place]:
        if self.model is None:
            return published_places(self.family)
        checkpoint, family = open_model(self.model, "--base")
        if family != self.family:
            raise UserError(f"--base {self.model} is a model of the family {family}; the LoRAs are for {self.family}.")
        return stored_places(checkpoint, family)
