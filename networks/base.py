"""What the trainer needs of a network: the adapter that is trained inside a frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Rates:
    """Learning rates by host: {"unet": 1e-4, "te1": 5e-5}. A host that is absent is not trained."""

    by_host: Mapping[str, float]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate."""

    name: str
    """Shown in logs: "unet", "textencoder", ..."""
    parameters: list[nn.Parameter]
    lr: float


class Network(Protocol):
    """An adapter for several hosts. Its parameters are fp32 whatever the hosts' type."""

    capturable: bool
    """A pass is the same work every time: no Python decision depends on the step, on random numbers or on what the device
    computes. Only then can it be replayed as a CUDA graph."""
    draws_random: bool
    """A pass in training mode draws random numbers, for dropout say. Gradient checkpointing then brings back the generators'
    state for the second time."""

    def attach(self, hosts: Mapping[str, nn.Module]) -> None:
        """Put the network into the hosts ("unet", "te1", "te2"); their outputs do not change until it is trained."""
        ...

    def enabled(self, on: bool) -> AbstractContextManager[None]:
        """Within the block the network acts (True) or the hosts are as frozen (False)."""
        ...

    def set_multiplier(self, multiplier: float) -> None:
        """Strength from now on; 1 in training."""
        ...

    def set_timestep(self, t_B: Tensor) -> None:
        """Told before each prediction, for networks whose rank depends on the timestep."""
        ...

    def parameter_groups(self, rates: Rates) -> list[ParameterGroup]:
        """Every trained parameter, each in one group."""
        ...

    def train(self, mode: bool = True) -> object:
        """Dropouts act only in training mode."""
        ...

    def start_epoch(self, epoch: int) -> None:
        """Told at the start of every epoch."""
        ...

    def limit_norms(self, maximum: float) -> Mapping[str, Tensor | float]:
        """Scale down what exceeds `maximum` (scale_weight_norms); returns `keys_scaled`, `average_norm`, `maximum_norm`,
        0-d tensors where they are computed on the device."""
        ...

    def state_dict_to_save(self) -> dict[str, Tensor]:
        """The tensors of the LoRA file under the names that other programs read: copies, fp32, on the CPU."""
        ...

    def load_saved(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the values of a LoRA file.

        Raises:
            UserError: names or shapes do not fit.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """`ss_network_module`, `ss_network_dim`, `ss_network_alpha`, `ss_network_args`, `ss_network_dropout`."""
        ...
