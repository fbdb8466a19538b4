"""The peak memory told before a run, on tiny models: against the run itself, and by what each setting does to it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from library.config.schema.training import OptimizerConfig
from library.inference.requests import SampleRequest
from library.models.live_memory import LiveMemory
from library.models.load import load_model
from library.training.data import build_data, look_through
from library.training.length import plan_length
from library.training.loading import batches
from library.training.needs import estimate
from library.training.needs.estimate import GIB, HOLES, in_process, optimizer_cost, tell_memory
from library.training.needs.meta_run import ACTIVATIONS, NETWORK, RECORDED, Demand, Phase, demand_of, dry_run
from library.training.run import Run
from library.training.trainer import build_trainer, trained_hosts
from networks.build import build_network


def phases(run: Run, demand: Demand) -> dict[str, Phase]:
    found = dry_run(run, plan_length(run, 2), demand, LiveMemory(), (8.0, 0.0))
    return {phase.name: phase for phase in found.phases}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("options", [{}, {"network_train_unet_only": "true"}, {"gradient_checkpointing": "true"}])
def test_the_step_without_weights_takes_what_the_real_one_takes(
    family: str, options: dict[str, str], started: Callable[..., Run]
) -> None:
    """The real step on the CPU is counted tensor by tensor."""
    run = started(family, **options)
    model = load_model(run.config.model, run.dtype, run.device)
    data = build_data(run, *look_through(run), model)
    length = plan_length(run, data.updates_per_epoch)
    demand = demand_of(run, data, [])
    network = build_network(run.config.network, trained_hosts(run, model), model.family, run.seed)
    trainer = build_trainer(run, model, network, length)
    hosts = model.hosts(["unet", "text_encoders"])
    memory = LiveMemory(device="cpu")
    memory.hold(tensor for host in hosts.values() for tensor in (*host.parameters(), *host.buffers()))
    memory.hold(tensor for group in trainer.groups for tensor in (group.values, group.gradients))
    batch = next(batches(run, data, model, length.span))
    assert batch is not None
    network.train()
    before = memory.live
    with memory:
        trainer.accumulate(batch)
    counted = phases(run, demand)["training step"].parts
    assert counted[ACTIVATIONS] == pytest.approx(memory.peak - before, rel=0.02)
    weights = sum(tensor.nbytes for tensor in hosts["unet"].parameters())
    assert counted["UNet"] == pytest.approx(weights, rel=0.01)


def test_the_largest_batch_is_what_counts(started: Callable[..., Run]) -> None:
    run = started(enable_bucket="true", min_bucket_reso=32, bucket_reso_steps=16, bucket_no_upscale="true")
    model = load_model(run.config.model, run.dtype, run.device)
    data = build_data(run, *look_through(run), model)
    assert demand_of(run, data, []) == Demand((64, 64), 2, 3)
    asked = [SampleRequest("", width=64, height=64, scale=1), SampleRequest("", width=96, height=64)]
    expected = Demand((64, 64), 2, 3, previews=2, preview_size=(96, 64), guided=True)
    assert demand_of(run, data, asked) == expected


def test_caching_frees_the_encoders(started: Callable[..., Run]) -> None:
    demand = Demand((64, 64), 2, 3)
    without = phases(started(), demand)
    cached = started(cache_latents="true", cache_text_encoder_outputs="true", network_train_unet_only="true")
    with_caches = phases(cached, demand)
    assert list(without) == ["encoding a batch", "training step", "update"]
    assert list(with_caches) == ["caching latents", "caching captions", "training step", "update"]
    assert {"VAE", "text encoders"} < set(without["training step"].parts)
    assert set(with_caches["training step"].parts) == {"UNet", NETWORK, ACTIVATIONS}
    assert "VAE" in with_caches["caching captions"].parts, "both are released after both have worked"


def test_previews_load_what_they_need(started: Callable[..., Run]) -> None:
    run = started(cache_latents="true", cache_text_encoder_outputs="true", network_train_unet_only="true")
    found = phases(run, Demand((64, 64), 2, 3, previews=2, preview_size=(96, 64)))
    assert "text encoders" not in found["preview"].parts
    assert "VAE" in found["decoding a preview"].parts
    larger = phases(run, Demand((64, 64), 2, 3, previews=2, preview_size=(192, 64)))
    assert larger["decoding a preview"].total > found["decoding a preview"].total


@pytest.mark.parametrize(
    ("options", "grows"),
    [
        ({"gradient_checkpointing": "true"}, False),
        ({"network_train_unet_only": "true"}, False),
        ({"network_dim": "64"}, True),
        ({"ema_decay": "0.999"}, True),
    ],
)
def test_settings_act_on_the_step(options: dict[str, str], grows: bool, started: Callable[..., Run]) -> None:
    demand = Demand((64, 64), 2, 3)
    plain = phases(started(), demand)["training step"].total
    changed = phases(started(**options), demand)["training step"].total
    assert (changed > plain) == grows and changed != plain


@pytest.mark.parametrize(("name", "expected"), [("AdamW", 8), ("SGD", 0), ("Lion", 4), ("AdamW8bit", 2)])
def test_an_optimizer_is_measured(name: str, expected: float) -> None:
    """Bytes for each value: Adam keeps two moments in fp32, Lion one, in 8 bits a byte each with a scale for 256."""
    if name in ("Lion", "AdamW8bit"):
        pytest.importorskip("bitsandbytes")
    config = OptimizerConfig(optimizer_type=name, learning_rate=1e-4)
    assert optimizer_cost(config, torch.device("cpu"))[0] == pytest.approx(expected, abs=0.1)


def test_a_heap_does_not_shrink() -> None:
    first = Phase("caching", {"VAE": 10, ACTIVATIONS: 1000})
    second = Phase("training", {"UNet": 500, NETWORK: 100, ACTIVATIONS: 300})
    last = Phase("update", {"UNet": 500, NETWORK: 100})
    totals = [phase.total for phase in in_process([first, second, last], process=50, kernels=7)]
    trained = 500 + 57 + 1400 + round(HOLES * 400)
    assert totals == [10 + 57 + 1000 + round(HOLES * 1000), trained, trained]


MANY = {
    "min_snr_gamma": 5,
    "debiased_estimation_loss": "true",
    "loss_type": "huber",
    "prior_prediction_rate": 0.5,
    "prior_prediction_weight": 5,
    "trigger_word": "hero",
    "class_word": "man",
    "noise_offset": 0.05,
    "scale_weight_norms": 1,
    "ema_decay": 0.99,
}


@pytest.mark.parametrize("options", [{}, MANY], ids=["few", "many"])
def test_it_is_told_in_one_line_and_changes_nothing(
    options: dict[str, object], started: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(**options)
    model = load_model(run.config.model, run.dtype, run.device)
    data = build_data(run, *look_through(run), model)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    capsys.readouterr()
    tell_memory(run, data, plan_length(run, data.updates_per_epoch), [])
    assert torch.equal(torch.rand(3), expected)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("estimated peak memory: ") and " GiB (" in line and " at 64x64; " in line


def test_too_little_memory_is_told_with_what_would_help(
    started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(optimizer_type="SGDNesterov")
    data = build_data(run, *look_through(run), load_model(run.config.model, run.dtype, run.device))
    totals = {"true": 2 * GIB, "false": 5 * GIB}

    def estimated(run: Run, length: object, demand: Demand, only: str | None = None) -> tuple[Phase, None]:
        total = totals[str(run.config.training.gradient_checkpointing).lower()]
        return Phase("training step", {ACTIVATIONS: total - (2 - demand.batch) * GIB}), None

    monkeypatch.setattr(estimate, "estimate", estimated)
    monkeypatch.setattr(estimate, "available", lambda device: 3 * GIB)
    tell_memory(run, data, plan_length(run, 2), [])
    told = capsys.readouterr().out
    assert "only 3.0 GiB are free" in told
    assert "gradient_checkpointing = true: 2.0 GiB; train_batch_size = 1: 4.0 GiB." in told


def test_a_network_that_cannot_do_without_weights_stops_nothing(
    started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = started()
    data = build_data(run, *look_through(run), load_model(run.config.model, run.dtype, run.device))

    def fails(*given: object) -> None:
        raise NotImplementedError("no numbers here")

    monkeypatch.setattr(estimate, "dry_run", fails)
    with caplog.at_level(logging.WARNING, "dojo"):
        tell_memory(run, data, plan_length(run, 2), [])
    assert "could not be estimated: NotImplementedError: no numbers here" in caplog.text


def test_a_saving_that_does_not_go_with_the_other_settings_is_left_out(
    started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(estimate, "available", lambda device: 0)
    monkeypatch.setattr(estimate, "GIB", 1 << 20)  # a tiny model's savings count too
    run = started(optimizer_args="fused=True")
    data = build_data(run, *look_through(run), load_model(run.config.model, run.dtype, run.device))
    tell_memory(run, data, plan_length(run, data.updates_per_epoch), [])
    told = capsys.readouterr().out
    assert "gradient_checkpointing = true: " in told and "AdamW8bit" not in told


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        ({}, True),
        ({"cuda_graphs": "false"}, False),
        ({"gradient_checkpointing": "true"}, True),
        ({"gradient_checkpointing": "true", "network_dropout": "0.1"}, False),
    ],
)
def test_a_recording_counts_where_there_will_be_one(
    started: Callable[..., Run], options: dict[str, str], recorded: bool
) -> None:
    run = started(**options)
    demand = Demand((64, 64), 2, 3)
    assert RECORDED not in phases(run, demand)["training step"].parts
    gpu = SimpleNamespace(device=torch.device("cuda"), process_index=0, num_processes=1, is_main_process=True)
    parts = phases(replace(run, accelerator=gpu), demand)["training step"].parts
    assert parts.get(RECORDED) == (parts[ACTIVATIONS] if recorded else None)
