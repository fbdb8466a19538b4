"""Count what a training step does, on both sides; needs no quiet machine.

    python -m benchmarks.counts --family sd15

Counted, on a model of the published depth and narrow layers, in bf16: operators that PyTorch dispatches in a step, forward,
backward and optimizer, and those of them that are no mere views; reads of a value that make a GPU's host wait; bytes kept
for the backward pass.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.full_size import draw_pictures
from benchmarks.sides import SIDES, Side, Workload
from library.models.published import Recipe, recipe
from library.models.random_weights import write_folder

CHANNELS = {"sd15": [32, 64, 96, 96], "sdxl": [64, 64, 128]}
RESOLUTION = 256
"""The tiny VAE makes a quarter of it, so that the UNet sees as many pixels as the published one at 512."""
SYNCS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")


@dataclass
class Counts(TorchDispatchMode):
    """What is dispatched while it is active, and what is kept by autograd."""

    operators: Counter[str] = field(default_factory=Counter)
    views: int = 0
    saved: dict[int, int] = field(default_factory=dict)
    """Bytes of each storage that the backward pass reads."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[func.name().partition(".")[0]] += 1
        self.views += func.is_view
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All operators."""
        return sum(self.operators.values())

    @property
    def syncs(self) -> int:
        """Operators that read a value back."""
        return sum(self.operators[name] for name in SYNCS)

    @property
    def saved_bytes(self) -> int:
        """Bytes kept for the backward pass, weights apart."""
        return sum(self.saved.values())


def count(side: Side, weights: set[int]) -> Counts:
    """The counts of one step, after one that warms up.

    Args:
        weights: addresses of the storages that are there anyway.
    """
    side.step()
    counts = Counts()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            counts.saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counts:
        side.step()
    return counts


def narrow(family: str) -> Recipe:
    """A model with the layers of the published one, each narrow."""
    small, full = recipe(family, tiny=True), recipe(family)
    heads = 8 if family == "sd15" else [width // 64 for width in CHANNELS[family]]
    kept = {key: small.unet[key] for key in small.unet if "dim" in key and key != "attention_head_dim"}
    unet = {**full.unet, **kept, "block_out_channels": CHANNELS[family], "attention_head_dim": heads}
    return replace(small, unet=unet)


def counts_of(family: str, folder: Path) -> dict[str, Counts]:
    """Both sides' counts.

    Args:
        folder: where the model and the pictures are written.
    """
    write_folder(narrow(family), folder / "model", torch.bfloat16)
    pictures = draw_pictures(folder / "pictures", RESOLUTION)
    workload = Workload(folder / "model", pictures, folder / "output", resolution=RESOLUTION, rank=4)
    found = {}
    for name, build in SIDES.items():
        side = build(workload)
        weights = {parameter.untyped_storage().data_ptr() for parameter in side.weights()}
        found[name] = count(side, weights)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15", choices=sorted(CHANNELS))
    parser.add_argument("--most", type=int, default=0, help="list the most frequent operators too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = counts_of(arguments.family, Path(folder))
    print(f"{'':<11}{'operators':>10}{'not views':>11}{'syncs':>7}{'saved MB':>10}")
    for name, counts in found.items():
        bare = counts.total - counts.views
        print(f"{name:<11}{counts.total:>10}{bare:>11}{counts.syncs:>7}{counts.saved_bytes / 1e6:>10.2f}")
        for operator, times in counts.operators.most_common(arguments.most):
            print(f"    {operator:<50}{times:>6}")
    ours, theirs = found["ours"], found["reference"]
    print(f"ours / reference: {ours.total / theirs.total:.2f} of the operators, "
          f"{(ours.total - ours.views) / (theirs.total - theirs.views):.2f} of those that are no views, "
          f"{ours.saved_bytes / theirs.saved_bytes:.2f} of the saved bytes")  # fmt: skip


if __name__ == "__main__":
    main()
