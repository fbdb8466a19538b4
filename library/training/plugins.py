"""Network, optimizer and schedule are imported and their options checked before any model is loaded."""

from __future__ import annotations

from library.config.schema import Config
from library.core.errors import UserError, UserErrors, raise_all
from library.optim.optimizers import check_optimizer
from library.optim.schedules import check_schedule
from networks.build import check_network


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
        except UserErrors as errors:
            mistakes += errors.messages
        except UserError as error:
            mistakes.append(str(error))
    raise_all(mistakes)
