"""LoKr (Yeh et al. 2024, LyCORIS): W + scale · W1 ⊗ W2, a Kronecker product of a small and a larger matrix.

Either is whole, or the product of two matrices of `network_dim` rows: W1 with `decompose_both` alone, W2 where that is less
than half of its longer side. scale = alpha / rank, and 1 where both are whole. W2 is zero at the start. Nothing is multiplied by
the whole change: (W1 ⊗ W2) x is W1 X W2ᵀ, where X is x as a matrix (van Loan 2000). Names, shapes and first values are those of
LyCORIS, which sd-scripts, ComfyUI and A1111 read.

Letters: O = p · k outputs, I = m · n inputs, W1 (p, m), W2 (k, n) or (k, n, kh, kw), R rank, N rows or samples, C columns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Size
from networks.arithmetic.dense import ChangeDropouts, FactoredAdapter, HostProduct, Parts, weight_shape
from networks.arithmetic.side_path import alpha_or
from networks.loha import tucker
from networks.options import refuse_dropout

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class LoKrOptions:
    """network_args of LoKr alone."""

    factor: int = option(-1, minimum=-1)
    """Into how many groups W1 splits inputs and outputs: this number, or the nearest below it that divides them. Smaller ones
    take more parameters. -1: near the square root."""
    decompose_both: bool = False
    """W1 is a product of two matrices too, where it is large enough for that."""
    full_matrix: bool = False
    """Both matrices are whole; network_dim and network_alpha have no effect."""
    unbalanced_factorization: bool = False
    """W1 gets the larger part of the outputs."""
    use_tucker: bool = option(False, aliases=("use_cp", "use_conv_cp"))
    """In kernels larger than 1x1: with a core of its own for the kernel, which takes fewer parameters."""
    rank_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out an output of the change, drawn for each call."""
    module_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out a module's whole change, drawn for each call."""


@dataclass(frozen=True)
class LoKrSize(Size):
    """With how the matrices of a site are made up."""

    groups: tuple[int, int]
    """(p, m), the shape of W1."""
    whole: tuple[bool, bool]
    """Whether W1 and W2 are whole."""
    tucker: bool
    flat: bool = False
    """W2 lacks a 1x1 kernel's dimensions, as sd-scripts writes it."""


@NETWORKS.register("networks.lokr")
class LoKr:
    """The LoKr of LyCORIS and sd-scripts."""

    Options = LoKrOptions
    faster = frozenset({"lokr_w2", "lokr_w2_b"})
    capturable = True
    scalable = True

    def __init__(self, options: LoKrOptions, network_dropout: float = 0.0) -> None:
        refuse_dropout("networks.lokr", network_dropout)
        if options.factor == 0:
            raise UserError("network_args: factor = 0 makes no groups: give 1 or more, or -1 for the square root.")
        self.options = options
        self.dropouts = ChangeDropouts(options.rank_dropout or 0.0, options.module_dropout or 0.0)
        self.draws_random = self.dropouts.any
        self._told = options.full_matrix

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> FactoredAdapter:
        """All drawn uniformly from ±1/sqrt(columns), W2 or the second of its matrices zero."""
        split = self._split(site, size)
        if size is not split and split.whole == (True, True) and not self._told:
            self._told = True
            log.warning(
                "networks.lokr: rank %d is at least half the size of W2 at %s, where both matrices are trained whole and alpha "
                "has no effect; as at all sites that are not larger", size.rank, site.key
            )  # fmt: skip
        factors = {}
        for name, shape in self.shapes(site, split).items():
            factors[name] = torch.zeros(shape)
            if name not in self.faster:
                nn.init.kaiming_uniform_(factors[name], a=math.sqrt(5), generator=generator)
        return FactoredAdapter(site.module, Kronecker(site.module, split), factors, split, self.dropouts)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank is that of the matrices that are products; where both are whole, one that makes scale 1."""
        if not any(name.startswith("lokr_") for name in tensors):
            return None
        whole = ("lokr_w1" in tensors, "lokr_w2" in tensors)
        first = tensors["lokr_w1"].shape if whole[0] else (len(tensors["lokr_w1_a"]), tensors["lokr_w1_b"].shape[1])
        groups = (int(first[0]), int(first[1]))
        if whole == (True, True):
            rank = max(tensors["lokr_w2"].shape)
            return LoKrSize(rank, float(rank), groups, whole, tucker=False, flat=tensors["lokr_w2"].dim() == 2)
        rank = tensors["lokr_w2_b" if whole[0] else "lokr_w1_b"].shape[0]
        flat = whole[1] and tensors["lokr_w2"].dim() == 2
        return LoKrSize(rank, alpha_or(tensors, rank), groups, whole, "lokr_t2" in tensors, flat)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of all factors.

        Raises:
            UserError: the groups of a file do not divide the site's inputs and outputs.
        """
        split, rank = self._split(site, size), size.rank
        (p, m), (k, n, *kernel) = split.groups, second_shape(site, split.groups)
        first: dict[str, tuple[int, ...]] = {"lokr_w1_a": (p, rank), "lokr_w1_b": (rank, m)}
        if split.whole[0]:
            first = {"lokr_w1": (p, m)}
        if split.whole[1]:
            return {**first, "lokr_w2": (k, n) if split.flat and kernel == [1, 1] else (k, n, *kernel)}
        if split.tucker:
            return {**first, "lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, k), "lokr_w2_b": (rank, n)}
        return {**first, "lokr_w2_a": (k, rank), "lokr_w2_b": (rank, n * math.prod(kernel))}

    def _split(self, site: Site, size: Size) -> LoKrSize:
        """A file's, or by LyCORIS' rules from the options."""
        if isinstance(size, LoKrSize):
            return size
        options = self.options
        outputs, inputs, *_ = weight_shape(site.module)
        (p, k), (m, n) = factorise(outputs, options.factor), factorise(inputs, options.factor)
        if options.unbalanced_factorization:
            p, k = k, p
        whole = (
            options.full_matrix or not options.decompose_both or size.rank >= max(p, m) / 2,
            options.full_matrix or size.rank >= max(k, n) / 2,
        )
        return LoKrSize(size.rank, size.alpha, (p, m), whole, options.use_tucker and site.kind == "conv3x3")


class Kronecker:
    """The change as W1 ⊗ W2, multiplied by x without being built."""

    def __init__(self, host: nn.Linear | nn.Conv2d, split: LoKrSize) -> None:
        self.scaled = split.whole != (True, True)
        self.split = split
        self.shape = weight_shape(host)
        self.second = HostProduct(host)

    def parts(self, *factors: Tensor) -> Parts:
        """W1 (p, m) and W2 (k, n) or (k, n, kh, kw), each from its factors."""
        p, m = self.split.groups
        w1, *rest = factors if self.split.whole[0] else (factors[0] @ factors[1], *factors[2:])
        if self.split.whole[1]:
            w2 = rest[0]
        else:
            w2 = tucker(*rest) if self.split.tucker else rest[0] @ rest[1]
        return w1, w2.view(self.shape[0] // p, self.shape[1] // m, *self.shape[2:])

    def product(self, x: Tensor, parts: Parts) -> Tensor:
        """W1 X W2ᵀ for each row, or for each sample of a convolution."""
        w1, w2 = parts
        inner = self.second(self._folded(x, w2), w2)
        y_NpC = torch.matmul(w1, inner.reshape(-1, w1.shape[1], inner[0].numel()))
        if w2.dim() == 4:
            return y_NpC.view(len(x), self.shape[0], *inner.shape[2:])
        return y_NpC.view(*x.shape[:-1], self.shape[0])

    def gradients(self, grad: Tensor, x: Tensor, parts: Parts) -> Parts:
        """Of x, W1 and W2."""
        w1, w2 = parts
        folded = self._folded(x, w2)
        inner = self.second(folded, w2)
        inner_NmC = inner.reshape(-1, w1.shape[1], inner[0].numel())
        grad_NpC = grad.reshape(len(inner_NmC), len(w1), -1)
        grad_w1 = torch.einsum("npc,nmc->pm", grad_NpC, inner_NmC)
        grad_inner = torch.matmul(w1.t(), grad_NpC).view(inner.shape)
        grad_folded, grad_w2 = self.second.gradients(grad_inner, folded, w2)
        return grad_folded.reshape(x.shape), grad_w1, grad_w2

    def change(self, parts: Parts) -> Tensor:
        """W1 ⊗ W2."""
        w1, w2 = parts
        return torch.kron(w1.view(*w1.shape, *[1] * (w2.dim() - 2)), w2.contiguous())

    def norm(self, parts: Parts) -> Tensor:
        """|W1 ⊗ W2| = |W1| |W2|."""
        w1, w2 = parts
        return w1.norm() * w2.norm()

    def _folded(self, x: Tensor, w2: Tensor) -> Tensor:
        """(N · m, n), or (B · m, n, h, w): each group of inputs as a sample of its own."""
        image = x.shape[2:] if w2.dim() == 4 else ()
        return x.reshape(-1, w2.shape[1], *image)


def second_shape(site: Site, groups: tuple[int, int]) -> tuple[int, ...]:
    """Of W2: (k, n) or (k, n, kh, kw).

    Raises:
        UserError: the groups do not divide the site's outputs and inputs.
    """
    outputs, inputs, *kernel = weight_shape(site.module)
    if 0 in groups or outputs % groups[0] or inputs % groups[1]:
        raise UserError(
            f"{site.key}.lokr_w1 has the shape {list(groups)}, which does not divide [{outputs}, {inputs}]."
        )
    return outputs // groups[0], inputs // groups[1], *kernel


def factorise(number: int, factor: int) -> tuple[int, int]:
    """`number` as a product, the smaller first: LyCORIS' rule, by which its files are laid out.

    factor where that divides it; else, of the ways to write it with a smaller one of at most `factor` (-1: of any size), the
    most even.
    """
    if factor > 0 and number % factor == 0:
        return min(factor, number // factor), max(factor, number // factor)
    largest = min(number if factor < 0 else factor, math.isqrt(number))
    smaller = max(divisor for divisor in range(1, largest + 1) if number % divisor == 0)
    return smaller, number // smaller
