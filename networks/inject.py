"""Adapters put into frozen hosts.

A host's module keeps its place, its parameters and its state dict; only its `forward` is replaced, by one that calls
the adapter with the former `forward`. The hosts' weights are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from library.core.errors import UserError, UserErrors
from library.core.randomness import torch_generator
from library.kernels.convolution import Conv2d
from library.lora_files.alphas import with_one_alpha
from library.lora_files.names.keys import Site
from library.lora_files.reading import tensors_by_site
from networks.algorithm import Adapter, Algorithm, Base, ForwardContext, ScalableAdapter
from networks.base import ParameterGroup, Rates
from networks.by_layer.rates import InnerRates, PlacedParameter, parameter_groups
from networks.by_layer.sizes import SizeOf

UNREADABLE = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading a site's tensors may raise where they make no sense."""


class AdapterNetwork(nn.Module):
    """An algorithm at work on a set of sites; implements `networks.base.Network`.

    Args:
        algorithm: builds the adapters.
        find_sites: the sites of given hosts.
        size_of: rank and alpha of each; sites without are left alone.
        inner_rates: learning rates inside the network.
        seed: of the initial weights, which depend on nothing else but the sites' keys.
        described: what `metadata()` returns.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        find_sites: Callable[[Mapping[str, nn.Module]], list[Site]],
        size_of: SizeOf,
        inner_rates: InnerRates,
        seed: int,
        described: Mapping[str, str],
    ) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.capturable: bool = getattr(algorithm, "capturable", False)
        self.draws_random: bool = getattr(algorithm, "draws_random", True)
        self.sites: dict[str, Site] = {}
        self.adapters = nn.ModuleDict()
        self.context = ForwardContext()
        self._find_sites = find_sites
        self._size_of = size_of
        self._inner_rates = inner_rates
        self._seed = seed
        self._described = dict(described)

    def attach(self, hosts: Mapping[str, nn.Module]) -> None:
        """Build the adapters and hook them into the hosts."""
        assert not self.sites, "already attached"
        for site in self._find_sites(hosts):
            size = self._size_of(site)
            if size is not None:
                adapter = self.algorithm.adapter(site, size, torch_generator(self._seed, f"network {site.key}"))
                self.adapters[site.key] = adapter  # type: ignore[assignment]
                # the site's own weight may wait on the CPU, where the host's first weights never do
                self.adapters[site.key].to(next(hosts[site.host].parameters()).device)
                self.sites[site.key] = site
                hook(site.module, adapter, self.context)
        if not self.sites:
            raise UserError(f"the network acts on no module of {', '.join(hosts)}: its options leave out every one.")

    def detach(self) -> None:
        """Take the adapters out of the hosts again; networks attached later go first."""
        for site in self.sites.values():
            unhook(site.module)

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """Within the block the network acts (True) or the hosts are as frozen (False)."""
        before, self.context.enabled = self.context.enabled, on
        try:
            yield
        finally:
            self.context.enabled = before

    def set_multiplier(self, multiplier: float) -> None:
        """Strength from now on."""
        self.context.multiplier = multiplier

    def set_timestep(self, t_B: Tensor) -> None:
        """For algorithms whose adapters read `context.timesteps_B`."""
        self.context.timesteps_B = t_B

    def start_epoch(self, epoch: int) -> None:
        """Nothing changes with the epoch."""

    def parameter_groups(self, rates: Rates) -> list[ParameterGroup]:
        """By host, block, layers and LoRA+. What has no rate is frozen."""
        placed = [
            PlacedParameter(parameter, self.sites[key], name in self.algorithm.faster)
            for key, adapter in self.adapters.items()
            for name, parameter in adapter.named_parameters()
        ]
        groups = parameter_groups(placed, rates, self._inner_rates)
        trained = {id(parameter) for group in groups for parameter in group.parameters}
        for item in placed:
            item.parameter.requires_grad_(id(item.parameter) in trained)
        return groups

    def delta(self, key: str) -> Tensor:
        """The change of one site's weight at multiplier 1, fp32."""
        return self._adapter(key).delta()

    @torch.no_grad()
    def limit_norms(self, maximum: float) -> Mapping[str, Tensor | float]:
        """Scale each site's change down to the norm `maximum` (Frobenius)."""
        norms = torch.stack([self._adapter(key).norm() for key in self.sites])
        factors = (maximum / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
        for key, factor in zip(self.sites, factors, strict=True):
            cast(ScalableAdapter, self._adapter(key)).scale_delta(factor)
        limited = norms * factors
        return {"keys_scaled": (factors < 1).sum(), "average_norm": limited.mean(), "maximum_norm": limited.max()}

    def state_dict_to_save(self) -> dict[str, Tensor]:
        """The tensors of the LoRA file, fp32, on the CPU."""
        tensors = {
            f"{key}.{name}": saved(tensor)
            for key in self.sites
            for name, tensor in self._adapter(key).tensors().items()
        }
        return with_one_alpha(tensors)

    def load_saved(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of a LoRA file.

        Raises:
            UserErrors: sites that the file lacks or that this network lacks, other ranks.
        """
        by_site = tensors_by_site(tensors)
        _check_sites(by_site.keys(), self.sites.keys())
        mistakes = []
        for key, site_tensors in by_site.items():
            try:
                self._adapter(key).load(site_tensors)
            except UNREADABLE as error:
                mistakes.append(f"{key}: {error}")
        if mistakes:
            hint = "With dim_from_weights = true the ranks are taken from the file."
            raise UserErrors([*mistakes[:5], *([f"and {len(mistakes) - 5} more"] if len(mistakes) > 5 else []), hint])

    def metadata(self) -> dict[str, str]:
        """`ss_network_module` and its companions."""
        return dict(self._described)

    def _adapter(self, key: str) -> Adapter:
        return self.adapters[key]  # type: ignore[return-value]


def saved(tensor: Tensor) -> Tensor:
    """A copy on the CPU, fp32 where it holds fractions."""
    dtype = torch.float32 if tensor.is_floating_point() else None
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def hook(module: nn.Linear | nn.Conv2d, adapter: Adapter, context: ForwardContext) -> None:
    """Let the module's calls go through the adapter while `context.enabled`."""
    plain = type(module) in (nn.Linear, nn.Conv2d, Conv2d) and "forward" not in vars(module)
    base = Base(module, module.forward, plain)

    def forward(x: Tensor) -> Tensor:
        return adapter(x, base, context) if context.enabled else base(x)

    forward.former = vars(module).get("forward")  # type: ignore[attr-defined]
    module.forward = forward  # type: ignore[method-assign, assignment]


def unhook(module: nn.Module) -> None:
    """Undo the last `hook`."""
    former = vars(module).pop("forward").former
    if former is not None:
        module.forward = former


def _check_sites(in_file: object, in_network: object) -> None:
    missing, unknown = sorted(set(in_network) - set(in_file)), sorted(set(in_file) - set(in_network))  # type: ignore[call-overload]
    if missing or unknown:
        raise UserError(
            f"the LoRA file does not fit this network: {_some(missing)} missing in the file, {_some(unknown)} not in the "
            "network. Train the same parts (network_train_unet_only, conv_dim), or set dim_from_weights = true to take "
            "the file's."
        )


def _some(keys: list[str]) -> str:
    return f"{len(keys)} module(s)" + (f" ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})" if keys else "")
