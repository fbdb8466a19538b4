"""LoHa (Hyeon-Woo et al. 2022, FedPara): W + scale · (A1 B1) ∘ (A2 B2), which reaches rank r² with twice LoRA's parameters.

∘ multiplies element by element; scale = alpha / r. A2 is zero at the start. In convolutions a kernel is flattened into the
inputs, or, with `use_tucker`, stands in cores T of its own: Σ T[i, j] A[i] B[j]. Names, shapes and initial values are those of
LyCORIS, which sd-scripts, ComfyUI and A1111 read. Letters: I inputs, O outputs, R rank, (kh, kw) kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Size
from networks.arithmetic.dense import ChangeDropouts, FactoredAdapter, HostProduct, Parts, weight_shape
from networks.arithmetic.side_path import alpha_or
from networks.options import refuse_dropout

FIRST_DEVIATIONS = {
    "hada_w1_a": 0.1,
    "hada_w1_b": 1.0,
    "hada_w2_a": 0.0,
    "hada_w2_b": 1.0,
    "hada_t1": 0.1,
    "hada_t2": 0.1,
}
MATRICES = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
CORES = frozenset({"hada_t1", "hada_t2"})


@dataclass(frozen=True)
class LoHaOptions:
    """network_args of LoHa alone."""

    use_tucker: bool = option(False, aliases=("use_cp", "use_conv_cp"))
    """In kernels larger than 1x1: with cores of their own, which takes fewer parameters."""
    rank_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out an output of the change, drawn for each call."""
    module_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out a module's whole change, drawn for each call."""


@dataclass(frozen=True)
class LoHaSize(Size):
    """Of a site in a file."""

    tucker: bool


@NETWORKS.register("networks.loha")
class LoHa:
    """The LoHa of LyCORIS and sd-scripts."""

    Options = LoHaOptions
    faster = frozenset({"hada_w2_a"})
    capturable = True
    scalable = True

    def __init__(self, options: LoHaOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.loha", network_dropout)
        self.use_tucker = options.use_tucker
        self.dropouts = ChangeDropouts(options.rank_dropout or 0.0, options.module_dropout or 0.0)
        self.draws_random = self.dropouts.any

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> FactoredAdapter:
        """All drawn from normal distributions, A2 zero."""
        factors = {
            name: torch.randn(shape, generator=generator) * FIRST_DEVIATIONS[name]
            for name, shape in self.shapes(site, size).items()
        }
        return FactoredAdapter(site.module, Hadamard(site.module), factors, size, self.dropouts)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank is the number of rows of B1."""
        if "hada_w1_b" not in tensors:
            return None
        rank = tensors["hada_w1_b"].shape[0]
        return LoHaSize(rank, alpha_or(tensors, rank), tucker="hada_t1" in tensors)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of all factors."""
        outputs, inputs, *kernel = weight_shape(site.module)
        rank = size.rank
        if size.tucker if isinstance(size, LoHaSize) else self.use_tucker and site.kind == "conv3x3":
            a, b, core = (rank, outputs), (rank, inputs), (rank, rank, *kernel)
            return {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b, "hada_t1": core, "hada_t2": core}
        a, b = (outputs, rank), (rank, inputs * torch.Size(kernel).numel())
        return {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": a, "hada_w2_b": b}


class Hadamard:
    """The change as the product, element by element, of two low-rank matrices."""

    scaled = True

    def __init__(self, host: nn.Linear | nn.Conv2d) -> None:
        self.shape = weight_shape(host)
        self.of_host = HostProduct(host)

    def parts(self, *factors: Tensor) -> Parts:
        """The change, from A1, B1, A2, B2 and, where they are, the cores."""
        w1_a, w1_b, w2_a, w2_b, *cores = factors
        if cores:
            return (tucker(cores[0], w1_a, w1_b) * tucker(cores[1], w2_a, w2_b),)
        return (((w1_a @ w1_b) * (w2_a @ w2_b)).view(self.shape),)

    def product(self, x: Tensor, parts: Parts) -> Tensor:
        """x times the change."""
        return self.of_host(x, *parts)

    def gradients(self, grad: Tensor, x: Tensor, parts: Parts) -> Parts:
        """Of x and of the change."""
        return self.of_host.gradients(grad, x, *parts)

    def change(self, parts: Parts) -> Tensor:
        """The one part."""
        return parts[0]

    def norm(self, parts: Parts) -> Tensor:
        """Of the change."""
        return parts[0].norm()


def tucker(core: Tensor, a_RO: Tensor, b_RI: Tensor) -> Tensor:
    """Σ over i, j of core[i, j] a[i] b[j], for each position of a kernel: (O, I, kh, kw)."""
    return torch.einsum("ijhw,io,jc->ochw", core, a_RO, b_RI)
