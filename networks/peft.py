"""PEFT's tuners as networks: those that change a weight in a way that no network of our own does.

`network_module = "networks.peft.hira"` and the others registered below. PEFT computes; sites, ranks and learning rates by layer,
files, merging and everything else are those of every network. Each layer gets a tuner of its own, so the tuners whose layers
share weights (VeRA, VB-LoRA, RandLoRA) are not among them. No other program reads these files: merge them into a checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType
from torch import Tensor, nn

from library.config.schema.fields import option
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site
from networks.algorithm import Base, ForwardContext, Size
from networks.options import refuse_dropout
from networks.tensors import copy_into

SITE = "site"


@dataclass(frozen=True)
class NoOptions:
    """A tuner that network_dim describes."""


@dataclass(frozen=True)
class GraLoRAOptions:
    """network_args of GraLoRA."""

    blocks: int = option(2, minimum=1)
    """The weight is cut into this many blocks a side, each with a LoRA of its own; it must divide every layer's features."""


@dataclass(frozen=True)
class DeLoRAOptions:
    """network_args of DeLoRA."""

    bound: float = option(15.0, minimum=0)
    """First value of the learned bound on the change's norm (PEFT's delora_lambda)."""


@dataclass(frozen=True)
class SpectralOptions:
    """network_args of WaveFT and FourierFT, whose network_dim is the number of coefficients a layer."""

    scaling: float | None = option(None, minimum=0)
    """Factor of the change; unset: PEFT's, 25 for WaveFT and 150 for FourierFT."""


@dataclass(frozen=True)
class Tuner:
    """A kind of network, as `networks.algorithm.Algorithm` wants it once it is called with its options."""

    name: str
    kind: PeftType
    mark: str
    """A tensor that only its files hold."""
    rank_of: Callable[[Tensor], int]
    """Rank from that tensor."""
    configured: Callable[[Size, Any], dict[str, Any]]
    """Fields of the tuner's configuration in PEFT; where `alpha` is among them, files hold it."""
    Options: type = NoOptions
    convolutions: bool = False
    """It acts on 2d convolutions too."""
    alpha_scales: bool = False
    faster: frozenset[str] = frozenset()
    scalable = False
    draws_random = False

    def __call__(self, options: Any, network_dropout: float = 0.0) -> PeftAlgorithm:
        return PeftAlgorithm(self, options, network_dropout)


class PeftAlgorithm:
    """One of PEFT's tuners with its options."""

    capturable = False
    draws_random = False

    def __init__(self, tuner: Tuner, options: Any, network_dropout: float = 0.0) -> None:
        refuse_dropout(tuner.name, network_dropout)
        self.tuner, self.options = tuner, options
        self.faster = tuner.faster

    def acts_on(self, site: Site) -> bool:
        """Linears, and convolutions where PEFT has the tuner for them."""
        return site.kind == "linear" or self.tuner.convolutions

    def adapter(self, site: Site, size: Size, generator: torch.Generator) -> PeftAdapter:
        """The tuner on this layer.

        Raises:
            UserError: the layer is quantised, or PEFT cannot put such a tuner on it.
        """
        if site.module.weight.element_size() < torch.float16.itemsize:
            raise UserError(
                f"{self.tuner.name} reads the model's own weights and cannot read quantised ones: leave out quantize_base and "
                "quantize_text_encoders."
            )
        configuration: Any = PEFT_TYPE_TO_CONFIG_MAPPING[self.tuner.kind]
        try:
            fields = self.tuner.configured(size, self.options)
            config = configuration(target_modules=[SITE], **fields)
            return PeftAdapter(site.module, config, fields.get("alpha"), generator)
        except ValueError as error:
            raise UserError(f"{self.tuner.name} cannot act on {site.key} with these network_args: {error}") from error

    def size_in_file(self, tensors: Mapping[str, Tensor]) -> Size | None:
        """The rank stands in a shape; alpha is a matter of the options."""
        if self.tuner.mark not in tensors:
            return None
        rank = self.tuner.rank_of(tensors[self.tuner.mark])
        return Size(rank, float(tensors["alpha"]) if "alpha" in tensors else float(rank))


class PeftAdapter(nn.Module):
    """PEFT's layer around a stand-in that shares the host's weights, so that the host stays in its place."""

    def __init__(
        self, host: nn.Linear | nn.Conv2d, config: PeftConfig, alpha: float | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.stand_in = (copy.copy(host),)  # in tuples, so that the frozen layer does not become a part of this module
        self.stand_in[0]._parameters = dict(host._parameters)
        vars(self.stand_in[0]).pop("forward", None)  # of another network, say, whose change is no part of these weights
        holder = nn.Module()
        holder.add_module(SITE, self.stand_in[0])
        with torch.random.fork_rng(devices=[host.weight.device] if host.weight.is_cuda else []):
            torch.manual_seed(generator.initial_seed())
            self.holder = (inject_adapter_in_model(config, holder),)
        for buffer in self._layer.buffers():
            buffer.data = buffer.data.float()
        for name, parameter in self.holder[0].named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                self.register_parameter(self._file_name(name).replace(".", "_"), parameter)

    def forward(self, x: Tensor, base: Base, context: ForwardContext) -> Tensor:
        """What PEFT's layer gives; where the strength is not 1, or something else acts below, its difference from the layer alone
        counts that much."""
        y = self._layer(x).to(x.dtype)
        if not base.plain:
            return torch.add(base(x), y - self.stand_in[0](x), alpha=context.multiplier)
        return y if context.multiplier == 1 else torch.lerp(base(x), y, context.multiplier)

    def delta(self) -> Tensor:
        """Read off by impulses, in fp32: whatever a tuner computes, it is linear in x."""
        with self._in_fp32() as stand_in, torch.no_grad():
            return impulse_response(self._layer, stand_in) - stand_in.weight

    def norm(self) -> Tensor:
        """|delta|."""
        return self.delta().norm()

    def tensors(self) -> dict[str, Tensor]:
        """PEFT's own names, and alpha where it counts."""
        saved = get_peft_model_state_dict(self.holder[0])
        alpha = {} if self.alpha is None else {"alpha": torch.tensor(float(self.alpha))}
        return {**{name.removeprefix(f"{SITE}."): tensor for name, tensor in saved.items()}, **alpha}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them; alpha must be the same."""
        own = self.tensors()
        if "alpha" in own and "alpha" in tensors and not torch.equal(own["alpha"], tensors["alpha"].float()):
            raise ValueError(f"alpha is {float(tensors['alpha']):g} instead of {self.alpha:g}")
        copy_into(own, tensors)

    @property
    def _layer(self) -> nn.Module:
        return self.holder[0].get_submodule(SITE)

    @staticmethod
    def _file_name(name: str) -> str:
        return name.removeprefix(f"{SITE}.").replace(".default", "")

    @contextmanager
    def _in_fp32(self) -> Iterator[nn.Linear | nn.Conv2d]:
        """The stand-in with its weight in fp32 and without bias."""
        (stand_in,) = self.stand_in
        parameters, weight = stand_in._parameters, stand_in.weight
        stand_in._parameters = {"weight": nn.Parameter(weight.detach().float(), requires_grad=False), "bias": None}
        try:
            yield stand_in
        finally:
            stand_in._parameters = parameters


def impulse_response(apply: Callable[[Tensor], Tensor], like: nn.Linear | nn.Conv2d) -> Tensor:
    """The weight of a map that is linear in x and has the shape of `like`, in that shape."""
    weight = like.weight
    if isinstance(like, nn.Linear):
        return apply(torch.eye(weight.shape[1], device=weight.device)).t()
    inputs, (height, width), paddings = weight.shape[1], like.kernel_size, cast(tuple[int, int], like.padding)
    # the first output that sees the whole kernel, and where that kernel begins
    at = [-(-padding // stride) for padding, stride in zip(paddings, like.stride, strict=True)]
    start = [n * s - p for n, s, p in zip(at, like.stride, paddings, strict=True)]
    x = weight.new_zeros(inputs, height, width, inputs, start[0] + height, start[1] + width)
    for row in range(height):
        for column in range(width):
            x[:, row, column, :, start[0] + row, start[1] + column] = torch.eye(inputs, device=weight.device)
    y = apply(x.flatten(0, 2))[:, :, at[0], at[1]]
    return y.view(inputs, height, width, -1).permute(3, 0, 1, 2)


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0]


HIRA = NETWORKS.register("networks.peft.hira")(
    Tuner(
        "networks.peft.hira", PeftType.HIRA, "hira_A", _rows, lambda size, _: {"r": size.rank}, convolutions=True,
        faster=frozenset({"hira_B"}),
    )
)  # fmt: skip
"""The weight times a low-rank matrix, element by element (Huang et al. 2025): a change of full rank."""

DELORA = NETWORKS.register("networks.peft.delora")(
    Tuner(
        "networks.peft.delora", PeftType.DELORA, "delora_A", _rows,
        lambda size, options: {"r": size.rank, "delora_lambda": options.bound}, DeLoRAOptions,
    )
)  # fmt: skip
"""LoRA with normalised ranks and a learned bound on its strength (Bini et al. 2025): hard to overtrain."""

GRALORA = NETWORKS.register("networks.peft.gralora")(
    Tuner(
        "networks.peft.gralora", PeftType.GRALORA, "gralora_A", lambda blocks_RI: blocks_RI.shape[-1],
        lambda size, options: {"r": size.rank, "alpha": size.alpha, "gralora_k": options.blocks}, GraLoRAOptions,
        alpha_scales=True, faster=frozenset({"gralora_B"}),
    )
)  # fmt: skip
"""A LoRA for each block of the weight (Jung et al. 2025): ranks times blocks at the same number of parameters."""

MISS = NETWORKS.register("networks.peft.miss")(
    Tuner("networks.peft.miss", PeftType.MISS, "miss_block", _rows, lambda size, _: {"r": size.rank})
)
"""One matrix shared over groups of inputs (Kang & Yin 2025): half of LoRA's parameters, and quick."""

WAVEFT = NETWORKS.register("networks.peft.waveft")(
    Tuner(
        "networks.peft.waveft", PeftType.WAVEFT, "waveft_spectrum", _rows,
        lambda size, options: {"n_frequency": size.rank, "scaling": 25.0 if options.scaling is None else options.scaling},
        SpectralOptions,
    )
)  # fmt: skip
"""A few coefficients of the change's wavelet transform (Bilican et al. 2025), made for personalising SDXL: tiny files."""

FOURIERFT = NETWORKS.register("networks.peft.fourierft")(
    Tuner(
        "networks.peft.fourierft", PeftType.FOURIERFT, "fourierft_spectrum", _rows,
        lambda size, options: {
            "n_frequency": size.rank, "scaling": 150.0 if options.scaling is None else options.scaling, "init_weights": True,
        },
        SpectralOptions,
    )
)  # fmt: skip
"""A few coefficients of the change's Fourier transform (Gao et al. 2024): tiny files."""
