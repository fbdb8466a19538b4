"""DoRA (Liu et al. 2024, eq. 5): W' = g · (W + scale · B A), g = magnitude / |W + scale · B A|, the magnitudes learned.

Norms and magnitudes are those of the layer's inputs, as the equation has it (a norm for each column of W), or with
`wd_on_output` those of its outputs, as the authors' code and PEFT have it. In the backward pass the norms count as constants
(section 4.3). At the start g is 1. W' itself is never built:

    inputs:   y = host(g x) + scale · B A (g x)        outputs:   y = g · (host(x) - b + scale · B A x) + b

and |W + scale · B A|² = |W|² + 2 <W, scale · B A> + |scale · B A|², where |W|² is measured once and the rest are products of
the rank's size. Files are LyCORIS': LoRA's with `dora_scale`. ComfyUI, Forge and A1111 agree on those of inputs; of those of
outputs only LyCORIS makes what is written above. Letters: I inputs, O outputs, R rank, N = I times the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.arithmetic.dense import weight_shape
from networks.arithmetic.host_weight import whole_weight
from networks.arithmetic.side_path import alpha_or, matrix_shapes
from networks.lora import Dropouts, LoRAAdapter
from networks.tensors import copy_into

FULL = ForwardContext()
"""Strength 1."""


@dataclass(frozen=True)
class DoRAOptions:
    """network_args of DoRA alone."""

    wd_on_output: bool | None = None
    """Magnitudes of the layers' outputs instead of their inputs: as PEFT and LyCORIS train them. ComfyUI and Forge take such
    files for something slightly else, A1111 for something else altogether. Unset: of the inputs, or as in the file that
    dim_from_weights reads."""
    rank_dropout: float | None = option(None, minimum=0, maximum=1)
    """Probability of leaving out one of the ranks, drawn for each sample; the norms are those of the whole."""


@dataclass(frozen=True)
class DoRASize(Size):
    """Of a site in a file."""

    on_output: bool


@NETWORKS.register("networks.dora")
class DoRA:
    """LoRA with magnitudes of its own."""

    Options = DoRAOptions
    faster = frozenset({"lora.up"})
    capturable = True
    scalable = False

    def __init__(self, options: DoRAOptions, network_dropout: float = 0.0) -> None:
        self.on_output = options.wd_on_output
        self.dropouts = Dropouts(network_dropout, options.rank_dropout or 0.0)
        self.draws_random = self.dropouts.any

    def acts_on(self, site: Site) -> bool:
        """Every site."""
        return True

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> DoRAAdapter:
        """LoRA's first values, and the magnitudes of the host.

        Raises:
            UserError: `wd_on_output` is set otherwise than in the file whose sizes are taken.
        """
        on_output = self._on_output(size)
        if on_output != (on_output if self.on_output is None else self.on_output):
            raise UserError(
                f"network_args: wd_on_output = {str(self.on_output).lower()}, but network_weights has magnitudes of "
                f"{'outputs' if on_output else 'inputs'}: leave wd_on_output out."
            )
        return DoRAAdapter(site.module, size, on_output, self.dropouts, generator)

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """Outputs stand in the first dimension of `dora_scale`, inputs in the second."""
        if not {"lora_down.weight", "dora_scale"} <= tensors.keys():
            return None
        rank, shape = tensors["lora_down.weight"].shape[0], tensors["dora_scale"].shape
        if len(shape) < 2 or min(shape[:2]) != 1:
            raise ValueError(f"dora_scale has the shape {list(shape)}, neither a column nor a row")
        return DoRASize(rank, alpha_or(tensors, rank), on_output=shape[1] == 1)

    def shapes(self, site: Site, size: Size) -> dict[str, tuple[int, ...]]:
        """Of both matrices and the magnitudes."""
        down, up = matrix_shapes(site.module, size.rank)
        scale = magnitude_shape(weight_shape(site.module), self._on_output(size))
        return {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": scale}

    def _on_output(self, size: Size) -> bool:
        return size.on_output if isinstance(size, DoRASize) else bool(self.on_output)


class DoRAAdapter(nn.Module):
    """The two matrices of one site and its magnitudes."""

    squared_norms: Tensor

    def __init__(
        self,
        host: nn.Linear | nn.Conv2d,
        size: Size,
        on_output: bool,
        dropouts: Dropouts,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.host = (host,)  # in a tuple, so that the frozen layer does not become a part of this module
        self.on_output = on_output
        self.lora = LoRAAdapter(host, size, dropouts, generator)
        self.register_buffer("squared_norms", self._squared_norms(whole_weight(host)), persistent=False)
        self.magnitude = nn.Parameter(self.squared_norms.sqrt())

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """The output at strength 1, or so far on the way to it from the host's; the change of W grows evenly on that way."""
        growth = self._growth(base.module.weight if base.plain else whole_weight(base.module)).to(x.dtype)
        if isinstance(base.module, nn.Conv2d):
            growth = growth.view(-1, 1, 1)
        if self.on_output:
            y, bias = self.lora(x, base, FULL), base.module.bias
            y = torch.addcmul(y, y if bias is None else y - bias.view(growth.shape), growth)
        else:
            y = self.lora(torch.addcmul(x, x, growth), base, FULL)
        return y if context.multiplier == 1 else torch.lerp(base(x), y, context.multiplier)

    def delta(self) -> Tensor:
        """W' - W, fp32."""
        weight = whole_weight(self.host[0]).to(self.magnitude.device)
        adapted = weight + self.lora.delta()
        return self.magnitude / self._squared_norms(adapted).sqrt() * adapted - weight

    def norm(self) -> Tensor:
        """|delta|."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """LoRA's, and the magnitudes as LyCORIS names them."""
        return {**self.lora.tensors(), "dora_scale": self.magnitude}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take matrices and magnitudes."""
        scales = {name: tensor for name, tensor in tensors.items() if name == "dora_scale"}
        try:
            copy_into({"dora_scale": self.magnitude}, scales)
        except ValueError as error:
            raise ValueError(f"{error} (wd_on_output is {str(self.on_output).lower()})") from error
        self.lora.load({name: tensor for name, tensor in tensors.items() if name != "dora_scale"})

    def _growth(self, weight: Tensor) -> Tensor:
        """g - 1, flat, fp32. Computed for every pass: what a CUDA graph replays must follow the weights."""
        lora = self.lora
        with torch.no_grad():
            added = added_squares(weight, lora.down, lora.up * lora.size.scale, self.on_output)
            squared = self.squared_norms + added.view(self.squared_norms.shape)
            norms = squared.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        return (self.magnitude / norms - 1).flatten()

    def _squared_norms(self, weight: Tensor) -> Tensor:
        """|W|² of each output or input, in the shape of `dora_scale`."""
        others = (*range(1, weight.dim()),) if self.on_output else (0, *range(2, weight.dim()))
        return weight.square().sum(others, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def magnitude_shape(weight: tuple[int, ...], on_output: bool) -> tuple[int, ...]:
    """(O, 1, ...) or (1, I, 1, ...) for a weight (O, I, ...)."""
    outputs, inputs, *kernel = weight
    return (outputs, 1, *[1] * len(kernel)) if on_output else (1, inputs, *[1] * len(kernel))


def added_squares(weight: Tensor, down: Tensor, up: Tensor, on_output: bool) -> Tensor:
    """|W + B A|² - |W|² of each output (O,) or input (I,), fp32; the product with W in the type of W."""
    weight_ON, down_RN, up_OR = weight.flatten(1), down.flatten(1), up.flatten(1)
    if on_output:
        met_OR = (weight_ON @ down_RN.t().to(weight.dtype)).float()
        return (up_OR * (2 * met_OR + up_OR @ (down_RN @ down_RN.t()))).sum(1)
    met_RN = (up_OR.t().to(weight.dtype) @ weight_ON).float()
    added_N = (down_RN * (2 * met_RN + (up_OR.t() @ up_OR) @ down_RN)).sum(0)
    return added_N.view(weight.shape[1], -1).sum(1)
