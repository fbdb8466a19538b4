"""Every optimizer that has a name of its own. The names are sd-scripts'; what they take is in `library.optim.options`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from library.optim import options
from library.optim.kind import Arguments, OptimizerKind, ParamGroup, packaged

log = logging.getLogger("dojo")


def _adafactor_arguments(given: Mapping[str, Any]) -> Arguments:
    """warmup_init belongs to the optimizer's own schedule, so it switches that on, as in sd-scripts."""
    arguments = _plain_adafactor.parse(given)
    if arguments["warmup_init"] and not arguments["relative_step"]:
        log.warning("optimizer_args: relative_step is switched on because warmup_init is.")
        arguments["relative_step"] = True
    return arguments


def _adafactor_rate(inner: torch.optim.Optimizer, group: ParamGroup) -> float:
    """The rate of the group's first tensor; each has its own. 0 before the first step of its own schedule."""
    state = inner.state.get(group["params"][0])
    if not state:
        return float(group["lr"] or 0.0)
    return float(inner._get_lr(group, state))  # type: ignore[attr-defined]


def _schedule_free_rate(inner: torch.optim.Optimizer, group: ParamGroup) -> float:
    """The last step's rate, its own warm-up included."""
    return float(group["scheduled_lr"])


adamw = packaged("torch.optim:AdamW", options.AdamWOptions, "torch")
sgd_nesterov = packaged("torch.optim:SGD", options.SGDOptions, "torch", fixed={"nesterov": True})

_BNB_ADAMW = (options.BitsAndBytesAdamWOptions, "bitsandbytes>=0.50")
adamw_8bit = packaged("bitsandbytes.optim:AdamW8bit", *_BNB_ADAMW)
paged_adamw = packaged("bitsandbytes.optim:PagedAdamW", *_BNB_ADAMW)
paged_adamw_32bit = packaged("bitsandbytes.optim:PagedAdamW32bit", *_BNB_ADAMW)
paged_adamw_8bit = packaged("bitsandbytes.optim:PagedAdamW8bit", *_BNB_ADAMW)
lion_8bit = packaged("bitsandbytes.optim:Lion8bit", options.BitsAndBytesLionOptions, "bitsandbytes>=0.50")
paged_lion_8bit = packaged("bitsandbytes.optim:PagedLion8bit", options.BitsAndBytesLionOptions, "bitsandbytes>=0.50")
sgd_nesterov_8bit = packaged("bitsandbytes.optim:SGD8bit", options.BitsAndBytesSGDOptions, "bitsandbytes>=0.50")

lion = packaged("lion_pytorch:Lion", options.LionOptions, "lion-pytorch")

_plain_adafactor = packaged(
    "transformers.optimization:Adafactor",
    options.AdaFactorOptions,
    "transformers",
    elementwise=False,
    sets_rate=lambda arguments: arguments["relative_step"],
    rate_in_use=_adafactor_rate,
)
adafactor = replace(_plain_adafactor, parse=_adafactor_arguments)

prodigy = packaged("prodigyopt:Prodigy", options.ProdigyOptions, "prodigyopt", one_rate=True)


def _dadaptation(path: str, options_type: type) -> OptimizerKind:
    return packaged(path, options_type, "dadaptation", one_rate=True)


dadapt_adam = _dadaptation("dadaptation:DAdaptAdam", options.DAdaptAdamOptions)
dadapt_adam_preprint = _dadaptation("dadaptation.experimental:DAdaptAdamPreprint", options.DAdaptAdamPreprintOptions)
dadapt_adagrad = _dadaptation("dadaptation:DAdaptAdaGrad", options.DAdaptAdaGradOptions)
dadapt_adan = _dadaptation("dadaptation:DAdaptAdan", options.DAdaptAdanOptions)
dadapt_adan_ip = _dadaptation("dadaptation.experimental:DAdaptAdanIP", options.DAdaptAdanOptions)
dadapt_lion = _dadaptation("dadaptation:DAdaptLion", options.DAdaptLionOptions)
dadapt_sgd = _dadaptation("dadaptation:DAdaptSGD", options.DAdaptSGDOptions)


def _schedule_free(path: str, options_type: type) -> OptimizerKind:
    return packaged(path, options_type, "schedulefree", rate_in_use=_schedule_free_rate)


adamw_schedule_free = _schedule_free("schedulefree:AdamWScheduleFree", options.AdamWScheduleFreeOptions)
radam_schedule_free = _schedule_free("schedulefree:RAdamScheduleFree", options.RAdamScheduleFreeOptions)
sgd_schedule_free = _schedule_free("schedulefree:SGDScheduleFree", options.SGDScheduleFreeOptions)
