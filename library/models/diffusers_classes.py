"""diffusers' model classes without what else it would import beside them.

Asked for its UNet, diffusers imports bitsandbytes, peft and most of transformers wherever they are installed, for its own
quantisation, its own LoRA and its pipelines. Nothing of that is used in a training run, and it takes longer than PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from library.core.runtime import uncollected

UNUSED = ("bitsandbytes", "peft", "transformers")


def import_model_classes(whole: bool = False) -> None:
    """Import the UNet and the VAE of diffusers, before the first of them is loaded.

    Afterwards diffusers' LoRA loader, pipelines and quantisation do not work in this process.

    Args:
        whole: with all that belongs to diffusers, for third parties that may use it.
    """
    if whole or "diffusers.models" in sys.modules:
        return
    with uncollected(), _taken_for_absent(UNUSED):
        import_module("diffusers.models.unets.unet_2d_condition")
        import_module("diffusers.models.autoencoders.autoencoder_kl")
        # else the first forward pass imports peft, to look for its layers in the UNet
        import_module("diffusers.utils").USE_PEFT_BACKEND = False  # type: ignore[attr-defined]


@contextmanager
def _taken_for_absent(packages: tuple[str, ...]) -> Iterator[None]:
    """Within the block diffusers takes these packages for not installed; where it keeps that elsewhere, nothing changes."""
    found = import_module("diffusers.utils.import_utils")
    flags = {name: getattr(found, name) for package in packages if hasattr(found, name := f"_{package}_available")}
    for name in flags:
        setattr(found, name, False)
    try:
        yield
    finally:
        for name, value in flags.items():
            setattr(found, name, value)
