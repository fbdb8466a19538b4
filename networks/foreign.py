"""Networks that speak sd-scripts' protocol (`create_network`), such as LyCORIS, behind our own.

Such a network names its weights after the modules as it finds them; files get the names that other programs read. Its
arithmetic expects autocast, so its modules run under it where the host is in half precision.
"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from library.config.schema.network import NetworkConfig
from library.core.disk import writing
from library.core.errors import UserError, did_you_mean
from library.core.randomness import derived_seed
from library.lora_files.file import read_lora, save_lora
from networks.base import ParameterGroup, Rates
from networks.foreign_names import classes_as_they_were, foreign_names, renamed, renamed_class
from networks.spelling import words_of


def is_foreign(plugin: object) -> bool:
    """Whether it is a module with sd-scripts' `create_network`."""
    return isinstance(plugin, ModuleType) and hasattr(plugin, "create_network")


class ForeignNetwork:
    """Implements `networks.base.Network` around a network of sd-scripts' protocol.

    Args:
        module: offers `create_network` and, for dim_from_weights, `create_network_from_weights`.
        described: what `metadata()` returns.
        weights: tensors of a LoRA file whose ranks to take (dim_from_weights).
    """

    capturable = False  # what it decides in Python, module dropout for one, cannot be known
    draws_random = True  # nor can its dropouts

    def __init__(
        self,
        module: ModuleType,
        config: NetworkConfig,
        family: str,
        seed: int,
        described: Mapping[str, str],
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._module = module
        self._config = config
        self._family = family
        self._seed = seed
        self._described = dict(described)
        self._weights = weights
        self._on = True
        self.training = True
        self._network: Any = None

    def attach(self, hosts: Mapping[str, nn.Module]) -> None:
        """Create the network, let it put itself into the hosts, and take note of which modules it changed.

        Raises:
            UserError: it changed none, or the hosts are quantised.
        """
        if any(parameter.element_size() < 2 for host in hosts.values() for parameter in host.parameters()):
            raise UserError(
                f"network_module '{self._config.network_module}' reads the model's own weights and cannot read quantised ones: "
                "leave out quantize_base and quantize_text_encoders."
            )
        self._hosts = dict(hosts)
        self._unet = hosts.get("unet", nn.Module())
        encoders = [host for name, host in hosts.items() if name != "unet"]
        self._encoders: Any = encoders[0] if len(encoders) == 1 and "te2" not in hosts else encoders
        self._names = foreign_names(hosts, self._family)
        modules = [module for host in hosts.values() for module in host.modules()]
        before = [vars(module).get("forward") for module in modules]
        frozen = [module.forward for module in modules]
        device = next(next(iter(hosts.values())).parameters()).device
        self._network = self._create(device)
        if hasattr(self._network, "prepare_network"):
            self._network.prepare_network(SimpleNamespace(**asdict(self._config)))
        self._network.apply_to(self._encoders, self._unet, bool(encoders), "unet" in hosts)
        changed = [
            (module, former)
            for module, own, former in zip(modules, before, frozen, strict=True)
            if vars(module).get("forward") is not own
        ]
        if not changed:
            raise UserError(f"network_module '{self._config.network_module}' changed no module of {', '.join(hosts)}.")
        for module, former in changed:
            module.forward = self._switched(module.forward, former)
        self._network.to(device=device, dtype=torch.float32)
        self._network.prepare_grad_etc(self._encoders, self._unet)

    def _create(self, device: torch.device) -> Any:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            classes_as_they_were(self._module),
        ):
            try:
                return self._call_create()
            except (AssertionError, ValueError, TypeError, KeyError) as error:
                root = self._module.__name__.partition(".")[0]
                raise UserError(
                    f"network_module '{self._config.network_module}' cannot create its network: "
                    f"{type(error).__name__}: {error}."
                    f"{did_you_mean(str(error.args[0]), words_of(root)) if isinstance(error, KeyError) else ''} "
                    "Check network_args against its documentation."
                ) from error

    def _call_create(self) -> Any:
        try:
            return self._call_once()
        except AssertionError as error:
            if "duplicated" not in str(error):
                raise
        with renamed_class(self._unet, "TimestepEmbedding", "TimeEmbedding"):
            return self._call_once()

    def _call_once(self) -> Any:
        torch.manual_seed(derived_seed(self._seed, "network"))
        config = self._config
        arguments: dict[str, Any] = {name: as_text(value) for name, value in config.network_args.items()}
        if self._weights is not None:
            with self._as_file(self._weights) as file:
                created = self._module.create_network_from_weights(
                    1.0, str(file), None, self._encoders, self._unet, **arguments
                )
            return created[0]
        if config.network_dropout is not None:
            arguments.setdefault("dropout", config.network_dropout)
        return self._module.create_network(
            1.0,
            config.network_dim,
            config.network_alpha,
            None,
            self._encoders,
            self._unet,
            neuron_dropout=config.network_dropout,
            **arguments,
        )

    def _switched(self, foreign: Callable[..., Any], former: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that follows `enabled`, and lets the network's fp32 weights meet half-precision activations."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not self._on:
                return former(*args, **kwargs)
            x = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            if x.dtype not in (torch.float16, torch.bfloat16):
                return foreign(*args, **kwargs)
            with torch.autocast(x.device.type, x.dtype):
                result = foreign(*args, **kwargs)
            return result.to(x.dtype) if isinstance(result, Tensor) else result

        return forward

    @contextmanager
    def enabled(self, on: bool) -> Iterator[None]:
        """Within the block the network acts (True) or the hosts are as frozen (False)."""
        before, self._on = self._on, on
        try:
            yield
        finally:
            self._on = before

    def set_multiplier(self, multiplier: float) -> None:
        """Strength from now on.

        Raises:
            UserError: the network has one strength only.
        """
        if hasattr(self._network, "set_multiplier"):
            self._network.set_multiplier(multiplier)
        elif multiplier != 1:
            raise UserError(
                f"network_module '{self._config.network_module}' has no set_multiplier: its strength is always 1."
            )

    def set_timestep(self, t_B: Tensor) -> None:
        """Tells the network that a step begins, where it wants to know."""
        if hasattr(self._network, "on_step_start"):
            self._network.on_step_start(self._encoders, self._unet)

    def start_epoch(self, epoch: int) -> None:
        """Passed on."""
        self._network.on_epoch_start(self._encoders, self._unet)

    def train(self, mode: bool = True) -> ForeignNetwork:
        """Passed on."""
        self.training = mode
        self._network.train(mode)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter of the network."""
        return iter(self._network.parameters())

    def parameter_groups(self, rates: Rates) -> list[ParameterGroup]:
        """The groups that the network makes; those with the rate 0 are frozen."""
        prepared = self._prepared(rates)
        groups_given, names = prepared if isinstance(prepared, tuple) else (prepared, [])
        if not all(isinstance(given, dict) for given in groups_given):
            groups_given = [{"params": groups_given}]
        groups = []
        for index, given in enumerate(groups_given):
            name = names[index] if index < len(names) else f"group{index}"
            groups.append(
                ParameterGroup(name, list(given["params"]), float(given.get("lr", self._default_rate(rates))))
            )
        trained = {id(parameter) for group in groups if group.lr > 0 for parameter in group.parameters}
        for parameter in self._network.parameters():
            parameter.requires_grad_(id(parameter) in trained)
        return [group for group in groups if group.lr > 0]

    def _prepared(self, rates: Rates) -> Any:
        encoder_rates = [rates.by_host.get(host, 0.0) for host in self._hosts if host != "unet"]
        unet_rate = rates.by_host.get("unet", 0.0)
        if hasattr(self._network, "prepare_optimizer_params_with_multiple_te_lrs"):
            return self._network.prepare_optimizer_params_with_multiple_te_lrs(
                encoder_rates, unet_rate, self._default_rate(rates)
            )
        if len(set(encoder_rates)) > 1:
            raise UserError(
                f"network_module '{self._config.network_module}' has one learning rate for all text encoders; "
                "text_encoder_lr gives several."
            )
        prepare = self._network.prepare_optimizer_params
        arguments = [encoder_rates[0] if encoder_rates else 0.0, unet_rate, self._default_rate(rates)]
        return prepare(*arguments[: len(inspect.signature(prepare).parameters)])

    def _default_rate(self, rates: Rates) -> float:
        return rates.by_host.get("unet", max(rates.by_host.values(), default=0.0))

    def limit_norms(self, maximum: float) -> Mapping[str, Tensor | float]:
        """Passed on.

        Raises:
            UserError: the network cannot.
        """
        if not hasattr(self._network, "apply_max_norm_regularization"):
            raise UserError(
                f"network_module '{self._config.network_module}' does not offer scale_weight_norms: leave it out."
            )
        device = next(self._network.parameters()).device
        scaled, average, highest = self._network.apply_max_norm_regularization(maximum, device)
        return {"keys_scaled": float(scaled), "average_norm": float(average), "maximum_norm": float(highest)}

    def state_dict_to_save(self) -> dict[str, Tensor]:
        """What the network itself would save, under the names that other programs read."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "network.safetensors"
            with writing(file):
                self._network.save_weights(str(file), None, {})
            tensors = {name: tensor.to(torch.float32, copy=True) for name, tensor in read_lora(file)[0].items()}
        return renamed(tensors, self._names)

    def load_saved(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of a file of this network.

        Raises:
            UserError: other names or shapes than this network has.
        """
        own = self.state_dict_to_save()
        wrong = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
        wrong += own.keys() ^ tensors.keys()
        if wrong:
            raise UserError(
                f"network_weights does not fit this network: {len(wrong)} tensors differ in name or shape, such as "
                f"{min(wrong)}. Use the same network_args, or set dim_from_weights = true."
            )
        with self._as_file(tensors) as file:
            self._network.load_weights(str(file))

    def metadata(self) -> dict[str, str]:
        """`ss_network_module` and its companions."""
        return dict(self._described)

    @contextmanager
    def _as_file(self, tensors: Mapping[str, Tensor]) -> Iterator[Path]:
        """A temporary file of the tensors under the network's own names."""
        back = {name: own for own, name in self._names.items()}
        # A network may keep the file mapped into memory; Windows cannot remove it then.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            file = Path(folder) / "network.safetensors"
            save_lora(file, renamed(tensors, back), {})
            yield file


def as_text(value: Any) -> str:
    """An argument as sd-scripts would pass it: text."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
