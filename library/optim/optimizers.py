"""From the configuration to an optimizer, and what the training loop does with it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from library.config.schema.training import OptimizerConfig, ScheduleConfig
from library.core.errors import UserError
from library.core.registry import OPTIMIZERS
from library.optim.flat import FlatGroup
from library.optim.kind import Arguments, OptimizerKind, ParamGroup, kind_of

log = logging.getLogger("dojo")


@dataclass(frozen=True)
class Optimizer:
    """A built optimizer behind the few things that the loop needs, whatever its kind."""

    inner: torch.optim.Optimizer
    kind: OptimizerKind
    base_rates: list[float]
    """Each group's learning rate before the schedule."""

    @property
    def skips_on_device(self) -> bool:
        """Whether `step` can leave the weights alone because of a tensor's value, without reading it back."""
        return getattr(self.inner, "_step_supports_amp_scaling", False)

    def set_factor(self, factor: float) -> None:
        """Learning rates from now on: the groups' own times `factor`. No effect where the optimizer sets its own."""
        for group, rate in zip(self.inner.param_groups, self.base_rates, strict=True):
            if isinstance(group["lr"], Tensor):  # by an optimizer from elsewhere, which may hold on to it
                group["lr"].fill_(rate * factor)
            elif group["lr"] is not None:
                group["lr"] = rate * factor

    def step(self, found_inf: Tensor | None = None, goes_on: bool = True) -> None:
        """Update the parameters from their gradients, without asking the device for a value where that can be.

        An optimizer's own package may ask: bitsandbytes once a group, AdaFactor once a tensor.

        Args:
            found_inf: 0-d fp32, 1 where the gradients are not finite and no parameter must change.
            goes_on: training goes on after such a step, as it does with loss scaling, so that the optimizer's state must not
                change either: one value is read back unless `skips_on_device`. Otherwise the state may take in a gradient of zero.
        """
        if self.kind.one_rate and not any(group["lr"] for group in self.inner.param_groups):
            return  # estimating a rate divides by the present one, which is 0 in the first step of a warm-up
        if self.skips_on_device:
            self.inner.found_inf = found_inf  # type: ignore[attr-defined]
            self.inner.step()
        elif found_inf is None:
            self.inner.step()
        elif goes_on or found_inf.device.type == "cpu":  # where reading is free
            if not found_inf.item():
                self.inner.step()
        else:
            self._step_and_restore(found_inf)

    @torch.no_grad()
    def _step_and_restore(self, found_inf: Tensor) -> None:
        """Step, and put the parameters back where `found_inf` says so."""
        broken = found_inf > 0
        parameters = [parameter for group in self.inner.param_groups for parameter in group["params"]]
        kept = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad.masked_fill_(broken, 0.0)
        self.inner.step()
        for parameter, values in zip(parameters, kept, strict=True):
            parameter.copy_(torch.where(broken, values, parameter))

    def rates(self) -> dict[str, float]:
        """Each group's learning rate as the schedule has set it; 0 where the optimizer sets its own."""
        return {group["name"]: float(group["lr"] or 0.0) for group in self.inner.param_groups}

    def effective_rates(self) -> dict[str, float]:
        """Each group's learning rate in use: d times lr for Prodigy and D-Adaptation, Adafactor's own, and so on."""
        return {group["name"]: self.kind.rate_in_use(self.inner, group) for group in self.inner.param_groups}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block the parameters are those to save and to sample with; after it, bit for bit those to train.

        They differ for schedule-free optimizers, which train at another point than the average they arrive at
        (Defazio et al. 2024). A training state is saved outside of the block.
        """
        if not hasattr(self.inner, "eval"):
            yield
            return
        parameters = [parameter for group in self.inner.param_groups for parameter in group["params"]]
        kept = [parameter.detach().clone() for parameter in parameters]
        self.inner.eval()
        try:
            yield
        finally:
            self.inner.train()  # type: ignore[attr-defined]
            with torch.no_grad():
                for parameter, values in zip(parameters, kept, strict=True):
                    parameter.copy_(values)


def build_optimizer(config: OptimizerConfig, groups: Sequence[FlatGroup]) -> Optimizer:
    """The optimizer that the config asks for, over the groups' flat tensors, or over their single ones where it must be.

    Raises:
        UserError: unknown name, package not installed, arguments or learning rates that it does not take.
    """
    kind, arguments = check_optimizer(config)
    if kind.one_rate:
        _check_one_rate(config.optimizer_type, groups)
    constructor = kind.load()
    rate = None if kind.sets_rate(arguments) else max(group.lr for group in groups)
    try:
        inner = constructor([_param_group(group, kind, arguments) for group in groups], lr=rate, **arguments)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"optimizer_type = '{config.optimizer_type}' does not accept its settings: {error}") from error
    if hasattr(inner, "train"):
        inner.train()
    return Optimizer(inner, kind, [group.lr for group in groups])


def check_optimizer(config: OptimizerConfig) -> tuple[OptimizerKind, Arguments]:
    """What the config asks for and its checked arguments, before there is anything to train.

    Raises:
        UserError: unknown name, package not installed, or arguments that it does not take.
    """
    kind = find_optimizer(config.optimizer_type)
    arguments = kind.parse(config.optimizer_args)
    kind.load()
    return kind, arguments


def find_optimizer(name: str) -> OptimizerKind:
    """By a known name in any case, the name of a class of torch.optim, or a dotted path.

    Raises:
        UserError: there is none.
    """
    known = {each.lower(): each for each in OPTIMIZERS.names()}
    in_torch = {each.lower(): each for each in dir(torch.optim) if isinstance(getattr(torch.optim, each), type)}
    if name.lower() in in_torch and name.lower() not in known:
        return kind_of(getattr(torch.optim, in_torch[name.lower()]))
    found = OPTIMIZERS.get(known.get(name.lower(), name))
    return found if isinstance(found, OptimizerKind) else kind_of(found)


def warn_about_schedule(optimizer: Optimizer, config: ScheduleConfig) -> None:
    """Say where the schedule and the optimizer work against one another."""
    moves = config.lr_scheduler not in ("constant", "adafactor") or config.lr_warmup_steps
    if moves and any(group["lr"] is None for group in optimizer.inner.param_groups):
        log.warning(
            "lr_scheduler and learning rates have no effect: the optimizer follows its own schedule (relative_step)."
        )
    elif config.lr_scheduler not in ("constant", "constant_with_warmup") and hasattr(optimizer.inner, "eval"):
        log.warning(
            f"lr_scheduler = '{config.lr_scheduler}' with a schedule-free optimizer: constant is what it is made for."
        )


def _param_group(group: FlatGroup, kind: OptimizerKind, arguments: Arguments) -> ParamGroup:
    parameters = [group.flat_parameter] if kind.elementwise else group.parameters
    rate = None if kind.sets_rate(arguments) else group.lr
    return {"params": parameters, "name": group.name, "lr": rate}


def _check_one_rate(name: str, groups: Sequence[FlatGroup]) -> None:
    rates = {group.name: group.lr for group in groups}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{group} {rate:g}" for group, rate in rates.items())
        raise UserError(
            f"optimizer_type = '{name}' estimates one learning rate for everything, but the groups have {listed}. "
            "Give unet_lr and text_encoder_lr the same value (1 is usual), or leave both out and set learning_rate = 1."
        )
    if max(rates.values()) <= 0.1:
        log.warning(
            f"learning rate {max(rates.values()):g} with {name}, which multiplies it with its own estimate: 1 is usual."
        )
