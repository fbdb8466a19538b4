"""Network, optimizer and schedule are imported and their options checked before any model is loaded."""

from __future__ import annotations

from types import ModuleType

from library.config.schema import Config
from library.core.errors import UserError, raise_all
from library.models.recognise import REGISTERED
from library.optim.optimizers import check_optimizer
from library.optim.schedules import check_schedule
from networks.build import check_network, find_plugin


def check_plugins(config: Config) -> None:
    """Import what the configuration names.

    Raises:
        UserErrors: everything that is wrong with their names and arguments, at once.
    """
    mistakes: list[str] = []
    for check in (
        lambda: check_network(config.network),
        lambda: check_optimizer(config.optimizer),
        lambda: check_schedule(config.schedule),
    ):
        try:
            check()
        except UserError as error:
            mistakes += error.messages
    raise_all(mistakes)


def uses_third_parties(config: Config) -> bool:
    """Whether the network or the model family is not ours: its code may use any part of any package."""
    network = find_plugin(config.network.network_module)
    module = network.__name__ if isinstance(network, ModuleType) else network.__module__
    family = config.model.model_family
    return not module.startswith("networks.") or family not in {None, *REGISTERED, *REGISTERED.values()}
