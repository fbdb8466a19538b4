"""What there is to know of an optimizer before it is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from library.config.options import parse_options
from library.core.errors import UserError
from library.optim.arguments import parse_arguments

WHERE = "optimizer_args"

Arguments = dict[str, Any]
ParamGroup = dict[str, Any]
"""torch's: "params", "lr" and the optimizer's own entries, here with a "name"."""

ELEMENTWISE_IN_TORCH = (
    "ASGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)


def adapted_rate(inner: torch.optim.Optimizer, group: ParamGroup) -> float:
    """lr, times the estimate d where the optimizer makes one (Defazio & Mishchenko 2023; Mishchenko & Defazio 2023)."""
    return float(group["lr"]) * float(group.get("d", 1.0))


@dataclass(frozen=True)
class OptimizerKind:
    """One optimizer that a config can ask for."""

    parse: Callable[[Mapping[str, Any]], Arguments]
    """optimizer_args as arguments of the constructor. Raises UserErrors."""
    load: Callable[[], Callable[..., torch.optim.Optimizer]]
    """Import the constructor. Raises UserError where its package is not installed."""
    elementwise: bool
    """Each value's update depends on that value alone (up to sums over all), so that a whole group may be one flat tensor."""
    one_rate: bool = False
    """Estimates the learning rate itself; the one given is a factor of it (1 is usual), and the same for every group."""
    sets_rate: Callable[[Arguments], bool] = lambda arguments: False
    """With these arguments it follows its own schedule and takes no learning rate."""
    rate_in_use: Callable[[torch.optim.Optimizer, ParamGroup], float] = adapted_rate
    """The learning rate that a group is really trained with."""


def packaged(
    path: str, options: type, package: str, *, fixed: Mapping[str, Any] | None = None, **facts: Any
) -> OptimizerKind:
    """An optimizer of an installable package.

    Args:
        path: "module:Class".
        options: dataclass of what optimizer_args may hold; its fields are the constructor's arguments.
        package: what pip installs.
        fixed: further arguments that the user does not choose.
        facts: the other fields of `OptimizerKind`.
    """

    def parse(given: Mapping[str, Any]) -> Arguments:
        return {**vars(parse_options(options, given, WHERE)), **(fixed or {})}

    return OptimizerKind(parse=parse, load=lambda: _import_class(path, package), **{"elementwise": True, **facts})


def kind_of(constructor: Any) -> OptimizerKind:
    """An optimizer that is only known by its class: its signature says what optimizer_args may hold.

    It gets every parameter by itself unless the class has an attribute `elementwise = True`, or is one of torch's own.

    Raises:
        UserError: not an optimizer, or one that must evaluate the loss itself.
    """
    if not (inspect.isclass(constructor) and issubclass(constructor, torch.optim.Optimizer)):
        raise UserError(
            f"optimizer_type = '{getattr(constructor, '__name__', constructor)}' is not a class of optimizers."
        )
    closure = inspect.signature(constructor.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"optimizer_type = '{constructor.__name__}' evaluates the loss several times a step, which is not supported."
        )
    from_torch = constructor in [getattr(torch.optim, name) for name in ELEMENTWISE_IN_TORCH]
    first = next(iter(inspect.signature(constructor).parameters), "params")
    return OptimizerKind(
        parse=lambda given: parse_arguments(constructor, given, WHERE, supplied=(first, "lr")),
        load=lambda: constructor,
        elementwise=getattr(constructor, "elementwise", from_torch),
    )


def _import_class(path: str, package: str) -> Callable[..., torch.optim.Optimizer]:
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise UserError(
            f"optimizer_type '{name}' needs the package {package}, which is not installed: pip install {package}"
        ) from error
