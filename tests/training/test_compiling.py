"""Compiled blocks compute what they did as they were written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from library.core.errors import UserError
from library.training import compiling
from library.training.batch import Batch
from library.training.compiling import REPEATED, compile_blocks, repeated_blocks, uncompiled
from library.training.step import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget_what_was_compiled() -> Iterator[None]:
    from torch._dynamo import config

    torch._dynamo.reset()
    limits = ("recompile_limit", "accumulated_recompile_limit")
    with config.patch({name: getattr(config, name) for name in limits}):
        yield


def test_losses_and_gradients_are_those_of_the_blocks_as_written(
    real_trainer: Callable[..., Trainer], random_batch: Callable[..., Batch]
) -> None:
    """Two shapes; linear layers through the adapter's own step of autograd, convolutions beside."""
    from torch._dynamo.utils import counters

    plain, compiled = (real_trainer(network_dim=2, network_args={"conv_dim": 2}) for _ in range(2))
    middle = compiled.model.hosts(["unet"])["unet"].mid_block  # a quick part of the UNet, with blocks of each kind
    assert {type(block).__name__ for block in repeated_blocks(middle)} == set(REPEATED)
    compile_blocks(middle, "aot_eager", CPU)
    counters.clear()
    for step in range(4):
        batch = random_batch(step, height=8 * (1 + step % 2))
        torch.testing.assert_close(compiled.accumulate(batch), plain.accumulate(batch), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(compiled.groups.gradients, plain.groups.gradients, rtol=1e-4, atol=1e-6)
    assert not counters["graph_break"], dict(counters["graph_break"])
    graphs = counters["stats"]["unique_graphs"]
    assert 2 * len(REPEATED) <= graphs <= 2 * len(list(repeated_blocks(middle)))
    with uncompiled():
        compiled.accumulate(random_batch(5, height=24))
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_what_is_compiled_is_kept_between_runs(monkeypatch: pytest.MonkeyPatch, chosen: str | None) -> None:
    if chosen is None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is put back after the test
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    else:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", chosen)
    monkeypatch.setattr(compiling, "_check_compiler", lambda device: None)
    compile_blocks(torch.nn.Identity(), "inductor", CPU)
    expected = chosen or str(Path.home() / ".cache" / "lora-dojo" / "compiled")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected


def test_what_a_backend_lacks_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install triton"):
        compile_blocks(torch.nn.Identity(), "inductor", torch.device("cuda"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        compile_blocks(torch.nn.Identity(), "inductor", CPU)
