"""Nothing in an update asks the device for a value: on a GPU that would wait for everything it was given.

The same operations show on the CPU, where they cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from library.core.errors import UserError
from library.training.batch import Batch
from library.training.log import Board, Log
from library.training.loop import Span, fit
from library.training.step import LAG, Trainer

WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "unique2", "_assert_async"}
"""Operations whose result the host, or the size of a tensor, depends on."""


class Asked(TorchDispatchMode):
    """Writes down every operation that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or masks:
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_what_waits() -> None:
    values = torch.arange(4.0)
    with Asked() as asked:
        values.sum().item()
        float(values[0])
        bool(values[0] > 1)
        values[values > 1]
        values.nonzero()
    assert asked.operations == ["_local_scalar_dense"] * 3 + ["index", "nonzero"]


@pytest.mark.parametrize("settings", [{}, {"network_dropout": 0.1, "network_args": {"rank_dropout": "0.1"}}])
def test_updates_do_not_wait(
    real_trainer: Callable[..., Trainer], random_batch: Callable[..., Batch], settings: dict[str, Any]
) -> None:
    """Captions encoded in the step, a mask, prior prediction, limited norms, the log."""
    trainer = real_trainer(network_dim=2, **settings)
    trainer.lag = LAG
    trainer.max_weight_norm = 1.0
    log = Log(Board(None), Span(0, 5, updates_per_epoch=2, accumulation=2), every=1, bar=False, lag=LAG)
    more = {"mask": torch.ones(2, 1, 8, 8), "keeps_prior": torch.tensor([True, False])}
    batches = [random_batch(step // 2, micro=step % 2, global_size=4, **more) for step in range(10)]
    with Asked() as asked:
        fit(trainer, iter(batches), log.span, [log])
    assert asked.operations == []
    assert log.average > 0


def test_a_broken_gradient_is_told_some_updates_later_and_changes_no_weight(
    new_trainer: Callable[..., Trainer],
) -> None:
    trainer = new_trainer(0.5)
    trainer.lag = LAG
    trainer.groups[0].gradients.fill_(torch.nan)
    before = trainer.groups.values.clone()
    trainer.update_weights(0, trainer.clip(), [])
    assert torch.equal(trainer.groups.values, before)
    for step in range(1, LAG):
        trainer.update_weights(step, trainer.clip(), [])
        trainer.look_back(LAG)
    trainer.update_weights(LAG, trainer.clip(), [])
    with pytest.raises(UserError, match="NaN or infinite"):
        trainer.look_back(LAG)


@pytest.mark.parametrize("name", ["AdamW8bit", "Lion", "AdaFactor", "AdamWScheduleFree"])
def test_optimizers_that_cannot_skip_are_undone(new_trainer: Callable[..., Trainer], name: str) -> None:
    """What they do on a GPU without loss scaling; here it is called by its own name."""
    trainer = new_trainer(0.5, size=8192, optimizer=name)
    trainer.groups[0].gradients.fill_(1.0)
    with Asked() as asked:
        trainer.optimizer._step_and_restore(torch.zeros(()))
    moved = trainer.groups.values.clone()
    assert torch.isfinite(moved).all() and not torch.equal(moved, torch.full_like(moved, 0.5))
    trainer.groups[0].gradients[3] = torch.nan
    trainer.optimizer._step_and_restore(torch.ones(()))
    assert torch.equal(trainer.groups.values, moved)
    assert not asked.operations or name == "AdaFactor", "AdaFactor's own package asks, for each tensor"
