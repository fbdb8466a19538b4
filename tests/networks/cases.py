"""Every network and what the tests need to know of it: a row here puts it through the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NetworkCase:
    """One network in one configuration."""

    module: str
    """Its `network_module`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Its `network_args`."""
    dropout: Mapping[str, Any] | None = None
    """What makes it draw random numbers: fields of NetworkConfig; None where nothing can."""
    random_start: bool = True
    """Its first weights depend on the seed."""

    def __str__(self) -> str:
        return "-".join([self.module.removeprefix("networks."), *(f"{k}={v}" for k, v in self.arguments.items())])


CASES = [
    NetworkCase("networks.lora", dropout={"network_dropout": 0.3}),
]
