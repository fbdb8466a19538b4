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
    strength: float = 0.1
    """Of the noise that stands for training; more where its change is small beside the rounding of bf16."""

    def __str__(self) -> str:
        return "-".join([self.module.removeprefix("networks."), *(f"{k}={v}" for k, v in self.arguments.items())])


CASES = [
    NetworkCase("networks.lora", dropout={"network_dropout": 0.3}),
    NetworkCase("networks.lora_fa", dropout={"network_dropout": 0.3}),
    NetworkCase("networks.dylora", {"unit": 2}, dropout={}),
    NetworkCase("networks.pissa"),
    NetworkCase("networks.t_lora", {"min_rank": 1, "orthogonal": True}),
    NetworkCase("networks.loha", dropout={"network_args": {"rank_dropout": 0.3}}),
    NetworkCase("networks.loha", {"use_tucker": True}, dropout={"network_args": {"module_dropout": 0.5}}),
    NetworkCase("networks.lokr", {"full_matrix": True}),
    NetworkCase("networks.lokr", {"factor": 2}, dropout={"network_args": {"rank_dropout": 0.3}}),
    NetworkCase("networks.lokr", {"factor": 4, "decompose_both": True, "use_tucker": True, "conv_dim": 1}),
    NetworkCase("networks.ia3", random_start=False, strength=0.5),
    NetworkCase("networks.ia3", {"layers": "all"}, random_start=False, strength=0.3),
    NetworkCase("networks.dora", dropout={"network_dropout": 0.3}),
    NetworkCase("networks.dora", {"wd_on_output": True}, dropout={"network_args": {"rank_dropout": 0.3}}),
    NetworkCase("networks.oft", {"enable_all_linear": True, "enable_text_encoder": True}, random_start=False),
    NetworkCase(
        "networks.oft",
        {"enable_all_linear": True, "enable_text_encoder": True, "constraint": 0.02, "rescaled": True},
        random_start=False,
    ),
    NetworkCase("networks.boft", random_start=False),
    NetworkCase("networks.boft", {"constraint": 0.02, "rescaled": True}, random_start=False),
    NetworkCase("networks.hra"),
    NetworkCase("networks.peft.hira", strength=0.5),
    NetworkCase("networks.peft.delora"),
    NetworkCase("networks.peft.gralora", {"blocks": 4}, strength=0.3),
    NetworkCase("networks.peft.miss", random_start=False),
    NetworkCase("networks.peft.waveft", {"scaling": 5.0}, random_start=False),
    NetworkCase("networks.peft.fourierft", random_start=False),
]

ONE_OF_EACH = list({case.module: case for case in CASES}.values())
"""One configuration of every network, for what takes long."""
