"""The training loop that both stages share: schedule, EMA, log, checkpoints that resume exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Plan:
    """How long and how fast one stage trains."""

    stage: str
    steps: int
    batch_size: int
    learning_rate: float
    seed: int
    checkpoint: Path
    log: Path
    warmup: int = 200
    ema_decay: float = 0.998
    save_every: int = 250
    log_every: int = 50


LossOf = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]]


def fit(module: nn.Module, loss_of: LossOf, count: int, plan: Plan, on_save: Callable[[int], None]) -> None:
    """Train `module` by AdamW until `plan.steps`, and leave the averaged weights (EMA) in it.

    `loss_of` takes the indices of a batch out of `count` samples and a generator, and returns the loss and a figure for
    the log. Every random draw comes from a generator seeded by the step, so a run that is cut off continues as it
    would have. `on_save` is called with the averaged weights in place whenever a checkpoint has been written.
    """
    averaged = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=plan.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    step = _resume(plan.checkpoint, module, averaged, optimizer)
    began, losses = time.monotonic(), []
    while step < plan.steps:
        losses.append(_train_step(module, loss_of, count, optimizer, plan, step))
        _average(averaged, module, min(plan.ema_decay, (1 + step) / (10 + step)))
        step += 1
        if step % plan.log_every == 0:
            _log(plan, step, losses, time.monotonic() - began)
            losses = []
        if step % plan.save_every == 0 or step == plan.steps:
            _save(plan.checkpoint, module, averaged, optimizer, step)
            _with_weights(module, averaged, partial(on_save, step))
    module.load_state_dict(averaged)


def rate_at(step: int, plan: Plan) -> float:
    """Learning rate: linear warm-up, then half a cosine down to 2%."""
    if step < plan.warmup:
        return plan.learning_rate * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _train_step(
    module: nn.Module, loss_of: LossOf, count: int, optimizer: torch.optim.Optimizer, plan: Plan, step: int
) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    indices_B = torch.randint(count, (plan.batch_size,), generator=generator)
    # On a CPU plain attention is several times faster at these sizes than the fused kernel's backward.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        loss, figure = loss_of(indices_B, generator)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate_at(step, plan)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), figure.item()


@torch.no_grad()
def _average(averaged: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, weight in module.state_dict().items():
        if weight.is_floating_point():
            averaged[name].lerp_(weight, 1 - decay)


def _with_weights(module: nn.Module, weights: dict[str, Tensor], act: Callable[[], None]) -> None:
    own = {name: weight.detach().clone() for name, weight in module.state_dict().items()}
    module.load_state_dict(weights)
    act()
    module.load_state_dict(own)


def _log(plan: Plan, step: int, losses: Iterable[tuple[float, float]], seconds: float) -> None:
    loss, figure = torch.tensor(list(losses)).mean(dim=0).tolist()
    line = f"{plan.stage},{step},{loss:.5f},{figure:.5f},{rate_at(step, plan):.2e},{seconds:.0f}"
    print(line, flush=True)
    is_new = not plan.log.exists()
    with plan.log.open("a", encoding="utf-8", newline="\n") as log:
        log.write(
            ("stage,step,loss,mean_absolute_error_or_mse,learning_rate,seconds\n" if is_new else "") + line + "\n"
        )


def _save(
    path: Path, module: nn.Module, averaged: dict[str, Tensor], optimizer: torch.optim.Optimizer, step: int
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"module": module.state_dict(), "averaged": averaged, "optimizer": optimizer.state_dict(), "step": step}
    unfinished = path.with_suffix(".tmp")
    torch.save(state, unfinished)
    unfinished.replace(path)


def _resume(path: Path, module: nn.Module, averaged: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    averaged.update(state["averaged"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
