"""What options there are: looked up by name in the dataclasses that declare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from library.config.schema import Config
from library.config.values import convert_option


@dataclass(frozen=True)
class Declared:
    """One option."""

    key: str
    group: str
    """Field of `Config` that holds it; '' for options outside the configuration."""
    annotation: Any
    field: Field[Any]

    @property
    def required(self) -> bool:
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def default(self) -> Any:
        return self.field.default if self.field.default_factory is MISSING else self.field.default_factory()

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(self.field.metadata.get("aliases", ()))

    @property
    def path(self) -> str | None:
        """ "input" or "output" where the option names a file or folder."""
        return self.field.metadata.get("path")

    def convert(self, value: Any) -> Any:
        """The value as this option's type.

        Raises:
            ValueError: it does not fit; says what is allowed.
        """
        return convert_option(value, self.annotation, self.field.metadata)


def declarations(dataclass_type: type, group: str = "") -> Mapping[str, Declared]:
    """Key -> option, for the fields of one dataclass."""
    annotations = get_type_hints(dataclass_type)
    return {field.name: Declared(field.name, group, annotations[field.name], field) for field in fields(dataclass_type)}


@cache
def catalog() -> Mapping[str, Declared]:
    """Key -> option, over all groups of the configuration."""
    groups = get_type_hints(Config)
    return {key: declared for name, group in groups.items() for key, declared in declarations(group, name).items()}


def by_any_name(options: Mapping[str, Declared]) -> dict[str, Declared]:
    """The same options under their aliases too."""
    return {name: declared for declared in options.values() for name in (declared.key, *declared.aliases)}
