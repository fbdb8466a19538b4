"""What networks of sd-scripts' protocol call the modules of a model, and what they are called in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

from torch import Tensor, nn

from library.lora_files.names.keys import dotted_names, file_key
from library.lora_files.names.layouts import KEY_LAYOUTS


@contextmanager
def renamed_class(root: nn.Module, name: str, other: str) -> Iterator[None]:
    """Within the block the modules of the class `name` are of a class `other` that differs in nothing else.

    Networks choose modules by the names of their classes. LyCORIS (4.1.3) finds diffusers' TimestepEmbedding by that and its
    layers by their own names, and stops for having them twice; sd-scripts' SDXL model has no such class.
    """
    found = [(module, type(module)) for module in root.modules() if type(module).__name__ == name]
    for module, own in found:
        module.__class__ = type(other, (own,), {})
    try:
        yield
    finally:
        for module, own in found:
            module.__class__ = own


@contextmanager
def classes_as_they_were(module: ModuleType) -> Iterator[None]:
    """Within the block the module's classes may change themselves; afterwards they are as before.

    LyCORIS (4.1.3) keeps the preset of one network in its class, for all networks that follow in the same process.
    """
    classes = {value: dict(vars(value)) for value in vars(module).values() if isinstance(value, type)}
    try:
        yield
    finally:
        for kind, attributes in classes.items():
            for name in [name for name, value in vars(kind).items() if attributes.get(name) is not value]:
                setattr(kind, name, attributes[name]) if name in attributes else delattr(kind, name)


def foreign_names(hosts: Mapping[str, nn.Module], family: str) -> dict[str, str]:
    """What sd-scripts' protocol calls each module, from its path in today's module tree -> its key in files."""
    layout = KEY_LAYOUTS.get(family)
    names = {}
    for host, root in hosts.items():
        name_of = dotted_names(host, root, family)
        for path, module in root.named_modules():
            if path and any(True for _ in module.parameters(recurse=False)):
                names[f"{layout.prefixes[host]}.{path}".replace(".", "_")] = file_key(host, name_of(path), layout)
    return names


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with the part of their name before the first dot replaced where `names` knows it."""
    parts = {name: name.partition(".") for name in tensors}
    return {f"{names.get(key, key)}.{rest}": tensors[name] for name, (key, _, rest) in parts.items()}
