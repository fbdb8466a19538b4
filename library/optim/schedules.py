"""How the learning rate moves: pure functions of the step, so that a resumed run needs no state to go on.

A schedule is a function `f(step, length, ...)` of the steps since the warm-up and how many there will be; it returns the
share of the learning rate, 1 at its highest. Warm-up and least rate are the same for all of them. Further parameters that
are called like an option of `ScheduleConfig` get its value, the others are what lr_scheduler_args may hold.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Literal

from library.config.schema.training import ScheduleConfig
from library.core.errors import UserError
from library.core.registry import SCHEDULES
from library.optim.arguments import parse_arguments

log = logging.getLogger("dojo")

WHERE = "lr_scheduler_args"

Shape = Callable[..., float]


def build_schedule(config: ScheduleConfig, total_steps: int) -> Callable[[int], float]:
    """The factor of every learning rate at an update, counted from 0.

    It rises from 0 through lr_warmup_steps, is 1, and then follows lr_scheduler down to lr_scheduler_min_lr_ratio.

    Raises:
        UserError: unknown name, arguments that it does not take, or phases that do not fit into the run.
    """
    warmup, decay = steps_of(config.lr_warmup_steps, total_steps), steps_of(config.lr_decay_steps, total_steps)
    if warmup + decay > total_steps:
        raise UserError(
            f"lr_warmup_steps ({warmup}) and lr_decay_steps ({decay}) together are longer than the run of {total_steps} steps; "
            "shorten them or raise max_train_steps."
        )
    shape, length, least = (
        _shape(config, total_steps - warmup, warmup, decay),
        total_steps - warmup,
        config.lr_scheduler_min_lr_ratio,
    )

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        return least + (1 - least) * shape(step - warmup, length)

    return factor


def check_schedule(config: ScheduleConfig) -> None:
    """Find the schedule and check its arguments before the length of the run is known; say which settings it does not read.

    Raises:
        UserError: unknown name, or arguments that it does not take.
    """
    _shape(config, length=1000, warmup=0, decay=0)
    read = inspect.signature(SCHEDULES.get(config.lr_scheduler)).parameters
    own = ("lr_decay_steps", "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_timescale")
    defaults = ScheduleConfig()
    unread = [name for name in own if name not in read and getattr(config, name) != getattr(defaults, name)]
    if unread:
        log.warning(f"lr_scheduler = '{config.lr_scheduler}' does not use {', '.join(unread)}.")


def depends_on_length(config: ScheduleConfig) -> bool:
    """Whether another number of training steps would change the learning rate of steps that both runs have."""
    longest = max(config.lr_warmup_steps, config.lr_decay_steps)
    short = 8_000 + 4 * int(longest)
    one, other = build_schedule(config, short), build_schedule(config, 2 * short)
    return any(one(step) != other(step) for step in range(0, short, 13))


def steps_of(steps_or_share: float, total_steps: int) -> int:
    """Below 1 a share of the run, else a number of steps."""
    return int(steps_or_share * total_steps) if steps_or_share < 1 else int(steps_or_share)


def constant(step: int, length: int) -> float:
    """Always 1."""
    return 1.0


constant_with_warmup = constant
adafactor = constant  # sd-scripts' name for leaving the rate to AdaFactor's relative_step


def linear(step: int, length: int) -> float:
    """Down to 0 in a straight line."""
    return max(0.0, 1 - _progress(step, length))


def cosine(step: int, length: int, num_cycles: float = 0.5) -> float:
    """Down to 0 along a cosine (Loshchilov & Hutter 2017, eq. 5), or through several of its waves."""
    return max(0.0, _cosine(2 * num_cycles * min(1.0, _progress(step, length))))


def cosine_with_min_lr(step: int, length: int, lr_scheduler_num_cycles: int) -> float:
    """A cosine of lr_scheduler_num_cycles half waves; made for lr_scheduler_min_lr_ratio, which every schedule takes."""
    return cosine(step, length, lr_scheduler_num_cycles / 2)


def cosine_with_restarts(step: int, length: int, lr_scheduler_num_cycles: int) -> float:
    """lr_scheduler_num_cycles times down to 0 along a cosine (Loshchilov & Hutter 2017)."""
    progress = _progress(step, length)
    return _cosine(lr_scheduler_num_cycles * progress % 1.0) if progress < 1 else 0.0


def polynomial(step: int, length: int, lr_scheduler_power: float) -> float:
    """Down to 0 as (1 - progress) to lr_scheduler_power."""
    return max(0.0, 1 - _progress(step, length)) ** lr_scheduler_power


def inverse_sqrt(step: int, length: int, lr_scheduler_timescale: int) -> float:
    """Down as 1 / sqrt(1 + step / timescale), for runs without a fixed end (Zhai et al. 2022)."""
    return 1 / math.sqrt(1 + step / lr_scheduler_timescale)


def warmup_stable_decay(
    step: int,
    length: int,
    lr_decay_steps: int,
    lr_scheduler_num_cycles: int,
    decay_type: Literal["cosine", "linear", "1-sqrt"] = "cosine",
) -> float:
    """1 until the last lr_decay_steps, then down to 0 (Hu et al. 2024; "1-sqrt" Hägele et al. 2024)."""
    progress = (step - (length - lr_decay_steps)) / max(1, lr_decay_steps)
    if progress < 0:
        return 1.0
    if progress >= 1:
        return 0.0
    by_type = {
        "cosine": _cosine(lr_scheduler_num_cycles * progress),
        "linear": 1 - progress,
        "1-sqrt": 1 - math.sqrt(progress),
    }
    return by_type[decay_type]


def piecewise_constant(step: int, length: int, step_rules: str) -> float:
    """diffusers' rules: "1:100,0.1:200,0.01" is 1 up to step 100, 0.1 up to step 200, 0.01 after.

    Raises:
        UserError: other rules.
    """
    *rules, last = step_rules.split(",")
    try:
        pairs = sorted((int(until), float(value)) for value, until in (rule.split(":") for rule in rules))
        return next((value for until, value in pairs if step < until), float(last))
    except ValueError:
        raise UserError(
            f'{WHERE}: step_rules = "{step_rules}" must look like "1:100,0.1:200,0.01" (factor:until_step, ..., factor).'
        ) from None


def _progress(step: int, length: int) -> float:
    return step / max(1, length)


def _cosine(half_waves: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * half_waves))


def _shape(config: ScheduleConfig, length: int, warmup: int, decay: int) -> Shape:
    """The function or class that the config names, with its further parameters bound."""
    found = SCHEDULES.get(config.lr_scheduler)
    if inspect.isclass(found):
        return _replayed(found, config, length)
    if not callable(found):
        raise UserError(
            f"lr_scheduler = '{config.lr_scheduler}' is neither a function of (step, length) nor an LRScheduler class."
        )
    settings = {field.name: getattr(config, field.name) for field in fields(config)}
    settings |= {"lr_decay_steps": decay, "lr_warmup_steps": warmup}
    settings["lr_scheduler_timescale"] = config.lr_scheduler_timescale or warmup or 10_000
    names = list(inspect.signature(found).parameters)
    given = parse_arguments(found, config.lr_scheduler_args, WHERE, supplied=[*names[:2], *settings])
    bound = given | {name: value for name, value in settings.items() if name in names[2:]}
    return lambda step, length: float(found(step, length, **bound))


def _replayed(scheduler_class: type, config: ScheduleConfig, length: int) -> Shape:
    """A torch LRScheduler, stepped as often as asked with a learning rate of 1, so that what it sets are factors.

    Rates among its arguments (eta_min, max_lr) are shares of the learning rate then. Its state is never saved: it follows
    from the step. A parameter total_steps is filled in; such a scheduler cannot be stepped further, and holds its last
    factor in a run that is longer.

    Raises:
        UserError: another kind of class, or arguments that it does not take.
    """
    import torch

    if (
        not issubclass(scheduler_class, torch.optim.lr_scheduler.LRScheduler)
        or "metrics" in inspect.signature(scheduler_class.step).parameters
    ):
        raise UserError(
            f"lr_scheduler = '{config.lr_scheduler}' must be an LRScheduler that needs nothing but the step."
        )
    parameters = inspect.signature(scheduler_class).parameters
    given: dict[str, Any] = parse_arguments(scheduler_class, config.lr_scheduler_args, WHERE, supplied=["optimizer"])
    steps: int | None = given.setdefault("total_steps", length) if "total_steps" in parameters else None
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    try:
        scheduler = scheduler_class(optimizer, **given)
    except (ValueError, TypeError) as error:
        raise UserError(f"lr_scheduler = '{config.lr_scheduler}' does not accept its settings: {error}") from error
    factors = [float(optimizer.param_groups[0]["lr"])]

    def factor(step: int, length: int) -> float:
        step = step if steps is None else min(step, steps - 1)
        while len(factors) <= step:
            optimizer.step()
            scheduler.step()
            factors.append(float(optimizer.param_groups[0]["lr"]))
        return factors[step]

    return factor
