"""Loss and gradient of every LoRA tensor, against the formulas of sd-scripts written out in float64 on diffusers' own UNet.

The reference shares nothing with the project but the weights, the latents, the captions, the timesteps and the raw random
numbers: it adds alpha / rank · up · down to the frozen weights by the names in the LoRA file, and leaves the rest to autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.func import functional_call
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from library.config.schema import LossConfig, ModelConfig, NetworkConfig, NoiseConfig, OptimizerConfig
from library.core.randomness import torch_generator
from library.data.pictures.placement import Geometry
from library.data.types import Example, LatentDistribution, MicroBatch
from library.diffusion.distance import build_distance
from library.diffusion.weighting import build_weighting
from library.models.load import load_model
from library.models.published import recipe
from library.models.random_weights import write_folder
from library.optim.flat import flatten
from library.optim.optimizers import build_optimizer
from library.training.batch import Batch, Draws, assemble
from library.training.loss_scale import LossScale
from library.training.objective import Objective
from library.training.step import Trainer
from networks.base import Rates
from networks.build import build_network
from tests.training.written_out import T, alphas_bar, distance, noises, patched, weight

SEED = 11
SHAPE = (4, 8, 8)
TIMESTEPS = [0, 37, 480, 999]
FP32 = 5e-5
"""Largest difference of a gradient from float64, as a share of its norm: rounding through the whole of both models."""


@dataclass(frozen=True)
class Case:
    """What a run asks for, on two passes of two samples that make one update."""

    loss: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    masked: bool = False
    weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    """Of each sample: prior_loss_weight for a regularisation picture."""


NOISES: dict[str, dict[str, Any]] = {
    "noise_offset": {"noise_offset": 0.1},
    "random_noise_offset": {"noise_offset": 0.1, "noise_offset_random_strength": True},
    "adaptive_noise_offset": {"noise_offset": 0.05, "adaptive_noise_scale": 0.4},
    "negative_adaptive_noise_offset": {"noise_offset": 0.05, "adaptive_noise_scale": -0.6},
    "multires_noise": {"multires_noise_iterations": 6, "multires_noise_discount": 0.4},
    "ip_noise": {"ip_noise_gamma": 0.2},
    "random_ip_noise": {"ip_noise_gamma": 0.2, "ip_noise_gamma_random_strength": True},
}
LOSSES: dict[str, dict[str, Any]] = {
    "l1": {"loss_type": "l1"},
    "huber_constant": {"loss_type": "huber", "huber_schedule": "constant", "huber_scale": 1.3},
    "huber_exponential": {"loss_type": "huber", "huber_schedule": "exponential", "huber_c": 0.15, "huber_scale": 1.3},
    "huber_snr": {"loss_type": "huber", "huber_schedule": "snr", "huber_c": 0.15},
    "smooth_l1_constant": {"loss_type": "smooth_l1", "huber_schedule": "constant", "huber_c": 0.15},
    "smooth_l1_exponential": {"loss_type": "smooth_l1", "huber_schedule": "exponential", "huber_c": 0.15},
    "smooth_l1_snr": {"loss_type": "smooth_l1", "huber_schedule": "snr"},
}
ANY = {
    "plain": Case(),
    "min_snr": Case({"min_snr_gamma": 5.0}),
    "debiased": Case({"debiased_estimation_loss": True}),
    "masked_loss": Case(masked=True),
    "prior_loss_weight": Case(weights=(1.0, 0.3, 1.0, 0.3)),
    # the two do not touch, so one of each is tried at a time
    **{f"{loss}, {noise}": Case(LOSSES[loss], NOISES[noise]) for loss, noise in zip(LOSSES, NOISES, strict=True)},
    "noise_offset_then_multires_noise": Case(noise={**NOISES["noise_offset"], **NOISES["multires_noise"]}),
    "all_together": Case(
        {"loss_type": "smooth_l1", "huber_schedule": "exponential", "min_snr_gamma": 1.0},
        {"noise_offset": 0.1, "ip_noise_gamma": 0.1},
        masked=True,
        weights=(1.0, 0.5, 1.0, 1.0),
    ),
}
OF_EPS = {
    "v_pred_like_loss": Case({"v_pred_like_loss": 0.4}),
    "v_pred_like_min_snr": Case({"v_pred_like_loss": 0.4, "min_snr_gamma": 5.0}),
}
OF_V = {
    "scale_v": Case({"scale_v_pred_loss_like_noise_pred": True}),
    "scale_v_debiased_min_snr": Case(
        {"scale_v_pred_loss_like_noise_pred": True, "debiased_estimation_loss": True, "min_snr_gamma": 5.0}
    ),
}
OF_ZERO_SNR = {"plain": ANY["plain"], "huber_snr": Case(LOSSES["huber_snr"]), "min_snr": ANY["min_snr"], **OF_V}
CASES = [
    *[("eps", name, case) for name, case in {**ANY, **OF_EPS}.items()],
    *[("v", name, case) for name, case in {**ANY, **OF_V}.items()],
    *[("v, zero terminal SNR", name, case) for name, case in OF_ZERO_SNR.items()],
    ("sdxl", "plain", ANY["plain"]),
    ("sdxl", "min_snr", ANY["min_snr"]),
]


@dataclass(frozen=True)
class Rig:
    """The project's trainer, and the same weights as diffusers and transformers read them."""

    trainer: Trainer
    predicts_v: bool
    zero_snr: bool
    unet: UNet2DConditionModel
    encoders: dict[str, tuple[CLIPTokenizer, torch.nn.Module]]
    """By the prefix of their names in LoRA files."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rig]:
    """`rig("eps")`, `rig("v")`, `rig("v, zero terminal SNR")`, `rig("sdxl")`, each made once."""
    root = tmp_path_factory.mktemp("models")
    made: dict[str, Rig] = {}

    def build(kind: str) -> Rig:
        if kind not in made:
            folder = root / kind[0]
            if not folder.exists():
                write_folder(recipe({"e": "sd15", "v": "sd2_v", "s": "sdxl"}[kind[0]], tiny=True), folder)
            made[kind] = _rig(folder, predicts_v=kind.startswith("v"), zero_snr="zero" in kind)
        return made[kind]

    return build


def _rig(folder: Path, predicts_v: bool, zero_snr: bool) -> Rig:
    cpu = torch.device("cpu")
    config = ModelConfig(pretrained_model_name_or_path=str(folder), zero_terminal_snr=zero_snr)
    model = load_model(config, torch.float32, cpu)
    settings = NetworkConfig(network_dim=6, network_alpha=3.0, network_args={"conv_dim": 4, "conv_alpha": 1.0})
    network = build_network(settings, model.hosts(["unet", "text_encoders"]), model.family, seed=3)
    groups = flatten(network.parameter_groups(Rates({"unet": 1e-2, "te1": 1e-3, "te2": 1e-3})))
    noise = torch.randn(groups.values.shape, generator=torch.Generator().manual_seed(5))
    groups.values.add_(0.05 * noise * (groups.values == 0))
    trainer = Trainer(
        model=model,
        network=network,
        objective=Objective(model, build_distance(LossConfig(), model.process), lambda t_B: torch.ones(len(t_B))),
        groups=groups,
        optimizer=build_optimizer(OptimizerConfig(), groups),
        schedule=lambda step: 1.0,
        loss_scale=LossScale(False, cpu),
        ema=None,
        seed=SEED,
        rank=0,
        processes=1,
        device=cpu,
        max_grad_norm=0.0,
        max_weight_norm=None,
    )
    return Rig(trainer, predicts_v, zero_snr, _frozen(UNet2DConditionModel, folder / "unet"), _encoders(folder))


def _frozen(kind: Any, folder: Path) -> Any:
    return kind.from_pretrained(folder, torch_dtype=torch.float64).eval().requires_grad_(False)


def _encoders(folder: Path) -> dict[str, tuple[CLIPTokenizer, torch.nn.Module]]:
    first = CLIPTokenizer.from_pretrained(folder / "tokenizer"), _frozen(CLIPTextModel, folder / "text_encoder")
    if not (folder / "text_encoder_2").exists():
        return {"lora_te_": first}
    second = _frozen(CLIPTextModelWithProjection, folder / "text_encoder_2")
    return {"lora_te1_": first, "lora_te2_": (CLIPTokenizer.from_pretrained(folder / "tokenizer_2"), second)}


@pytest.mark.parametrize(("kind", "name", "case"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_loss_and_gradients_are_those_of_the_formulas(
    kind: str, name: str, case: Case, rig: Callable[[str], Rig]
) -> None:
    found, gradients = _ours(rig(kind), case)
    expected, reference = _reference(rig(kind), case)
    assert found == pytest.approx(expected, rel=1e-6)
    assert gradients.keys() == reference.keys()
    sizes = {key: float(wanted.norm()) for key, wanted in reference.items()}
    # where a norm of one channel a group cancels a layer's whole effect, the gradient is 0 but for rounding
    usual = sorted(sizes.values())[len(sizes) // 2]
    sizes = {key: size if size > 1e-9 * usual else usual for key, size in sizes.items()}
    errors = {key: float((gradients[key] - reference[key]).norm()) / size for key, size in sizes.items()}
    worst = max(errors, key=lambda key: errors[key])
    assert errors[worst] < FP32, (worst, errors[worst])


def _passes(case: Case) -> list[Batch]:
    """Two micro-batches of two samples, drawn as in training, with timesteps from both ends of the range."""
    draws = Draws(SEED, NoiseConfig(**case.noise), range(T))
    batches = []
    for micro in (0, 1):
        examples = [_example(case, place) for place in (2 * micro, 2 * micro + 1)]
        latents = [example.latents for example in examples if example.latents is not None]
        batch = assemble(MicroBatch(examples, 0, micro, 0, 4), latents, draws)
        batches.append(replace(batch, timesteps=torch.tensor(TIMESTEPS[2 * micro : 2 * micro + 2])))
    return batches


def _example(case: Case, place: int) -> Example:
    draw = torch.Generator().manual_seed(21 + place)
    latents = torch.randn(SHAPE, generator=draw) + torch.tensor([0.5, -0.2, 0.1, 0.0]).view(4, 1, 1)
    mask = torch.rand(1, *SHAPE[1:], generator=draw)
    return Example(
        position=(0, place),
        image=f"{place}.png",
        caption=f"fighter {place}",
        latents=LatentDistribution(latents, torch.zeros(SHAPE)),
        pixels=None,
        conditioning=None,
        mask=mask if case.masked else None,
        geometry=Geometry((64, 64), (0, 0), (64, 64)),
        weight=case.weights[place],
        keeps_prior=False,
        multiplier=1.0,
    )


def _ours(rig: Rig, case: Case) -> tuple[float, dict[str, Tensor]]:
    """The loss of the update, and its gradient under the names of the LoRA file."""
    trainer, loss = rig.trainer, LossConfig(**case.loss)
    process = trainer.model.process
    trainer.objective = Objective(trainer.model, build_distance(loss, process), build_weighting(loss, process))
    trainer.groups.zero_grad()
    losses = trainer.accumulate_all(_passes(case))
    trainer.reduce_gradients(losses)
    weights = trainer.groups.values.clone()
    trainer.groups.values.copy_(trainer.groups.gradients)
    saved = trainer.network.state_dict_to_save()
    trainer.groups.values.copy_(weights)
    gradients = {name: tensor.double() for name, tensor in saved.items() if not name.endswith("alpha")}
    return float(torch.cat(losses).mean()), gradients


def _reference(rig: Rig, case: Case) -> tuple[float, dict[str, Tensor]]:
    lora = {name: tensor.double() for name, tensor in rig.trainer.network.state_dict_to_save().items()}
    trained = {name: tensor.requires_grad_() for name, tensor in lora.items() if not name.endswith("alpha")}
    unet = patched(rig.unet, "lora_unet_", lora)
    x0, noise, corrupting, t, mask, of_sample = _drawn(case)
    abar = alphas_bar(rig.zero_snr)[t].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * x0 + (1 - abar).sqrt() * corrupting
    predicted = functional_call(rig.unet, unet, (noisy, t), _text(rig, lora)).sample
    target = abar.sqrt() * noise - (1 - abar).sqrt() * x0 if rig.predicts_v else noise
    error = distance(case.loss, predicted - target, t, abar)
    if case.masked:
        error = error * mask
    loss = (error.mean(dim=(1, 2, 3)) * of_sample * weight(case.loss, abar, rig.predicts_v)).mean()
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True, materialize_grads=True)
    return float(loss), dict(zip(trained, gradients))


def _text(rig: Rig, lora: dict[str, Tensor]) -> dict[str, Any]:
    """What the UNet reads: the last hidden states; for SDXL those before the last layer, the pooled state, and the sizes."""
    prompts = [f"fighter {place}" for place in range(4)]
    outputs = []
    for prefix, (tokenizer, encoder) in rig.encoders.items():
        ids = tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        weights = patched(encoder, prefix, lora)
        outputs.append(functional_call(encoder, weights, (ids,), {"output_hidden_states": True}))
    if len(outputs) == 1:
        return {"encoder_hidden_states": outputs[0].last_hidden_state}
    added = {"text_embeds": outputs[1].text_embeds, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 4)}
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return {"encoder_hidden_states": hidden, "added_cond_kwargs": added}


def _drawn(case: Case) -> tuple[Tensor, ...]:
    """Latents, noise to be predicted, noise that corrupts, timesteps, masks and weights of the update's four samples."""
    examples = [_example(case, place) for place in range(4)]
    x0 = torch.stack([example.latents.mean.double() for example in examples if example.latents is not None])
    drawn = [noises(case.noise, torch_generator(SEED, "noise", 0, place), latents) for place, latents in enumerate(x0)]
    masks = torch.stack([example.mask.double() for example in examples]) if case.masked else torch.ones(())
    return (
        x0,
        torch.stack([noise for noise, _ in drawn]),
        torch.stack([corrupting for _, corrupting in drawn]),
        torch.tensor(TIMESTEPS),
        masks,
        torch.tensor(case.weights, dtype=torch.float64),
    )
