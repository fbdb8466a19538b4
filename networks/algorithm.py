"""What a kind of network is made of: an algorithm that builds one adapter for each site.

Everything else (which modules, ranks by block, learning rates by block, hooks, files, merging) is the same for all
kinds and lives in `by_layer`, `inject` and `files`. A new kind is one class with these few methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from library.lora_files.names.keys import Site


@dataclass(frozen=True)
class Size:
    """How large an adapter is. Its change of the weight is scaled by alpha / rank."""

    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.alpha / self.rank


@dataclass
class ForwardContext:
    """What holds for every adapter of a network right now."""

    enabled: bool = True
    multiplier: float = 1.0
    timesteps_B: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Base:
    """The frozen module under an adapter, called as it was before the adapter came."""

    module: nn.Linear | nn.Conv2d
    forward: Callable[[Tensor], Tensor]
    plain: bool
    """`forward` is the class's own product with `module.weight`: not quantised, nothing else attached."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


@runtime_checkable
class Adapter(Protocol):
    """What is trained at one site; an nn.Module with fp32 parameters."""

    def __call__(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The module's output with this adapter: `base(x)` and what the adapter adds, in x's type."""
        ...

    def delta(self) -> Tensor:
        """The change of the host's weight at multiplier 1, in the weight's shape, fp32."""
        ...

    def norm(self) -> Tensor:
        """The Frobenius norm of `delta()`, a 0-d tensor; cheaper where the algorithm allows it."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The adapter's part of a LoRA file: name after the site's key -> tensor."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take such tensors.

        Raises:
            ValueError: names or shapes do not fit; says how.
        """
        ...


class ScalableAdapter(Adapter, Protocol):
    """An adapter whose change of the weight can be made smaller, for `scale_weight_norms`."""

    def scale_delta(self, factor: Tensor) -> None:
        """Change the weights so that `delta()` is multiplied by `factor` (a 0-d tensor)."""
        ...


class Algorithm(Protocol):
    """A kind of network, registered under its name in `library.core.registry.NETWORKS`.

    It is built as `algorithm(options, network_dropout)`, with an instance of its `Options`.
    """

    Options: type[Any]
    """Frozen dataclass, with defaults, of what may stand in network_args besides `SizeOptions`, `RateOptions` and
    `PatternOptions`."""
    faster: frozenset[str]
    """Names of the adapters' parameters that LoRA+ trains faster."""
    draws_random: bool
    """Whether the adapters draw random numbers while they train, for dropout say. A kind that does not say is taken to."""
    capturable: bool
    """Whether the adapters compute on the device alone, without a Python decision that depends on the step or on values, so
    that a CUDA graph can replay them. A kind that does not say is not recorded."""
    alpha_scales: bool
    """Whether alpha / rank scales the change of a weight. A kind that does not say is taken to."""
    scalable: bool
    """Whether the adapters are `ScalableAdapter`s. A kind that does not say is taken to make such."""
    applied_as: type[Algorithm]
    """The kind that puts finished files onto a model, where that is another, simpler one. May be left out."""

    def acts_on(self, site: Site) -> bool:
        """Whether the options want an adapter here. Not asked where a file says which sites it holds."""
        ...

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> Adapter:
        """The adapter of one site, on its module's device, fp32, without any effect yet.

        `generator` belongs to this site alone; it and nothing else may be drawn from.
        """
        ...

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """Rank and alpha of a site in a file (names after the site's key), None where they are not this kind's.

        The file may hold anything. Where it makes no sense, ValueError and its like tell the user so.
        """
        ...


@runtime_checkable
class TellsShapes(Protocol):
    """An algorithm that knows the shapes of an adapter before there is one."""

    def shapes(self, site: Site, size: Size) -> Mapping[str, tuple[int, ...]]:
        """Of the tensors in a file (names after the site's key), so that no memory is taken for what cannot fit."""
        ...
