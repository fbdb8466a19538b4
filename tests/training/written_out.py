"""The formulas of sd-scripts and the names in its LoRA files, written out in float64 for tests to compare with.

Options are the names and values that a run sets; what it does not set is left out.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

T = 1000
"""Timesteps."""


def patched(module: torch.nn.Module, prefix: str, lora: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that the file changes, W + alpha / rank · up · down, under the module's own names."""
    changed = {}
    for path, part in module.named_modules():
        plain = path.replace(".", "_")
        names = [prefix + name for name in (plain, f"text_model_{plain}", _original(plain))]
        key = next((name for name in names if f"{name}.alpha" in lora), None)
        if key is not None:
            down, up = lora[f"{key}.lora_down.weight"], lora[f"{key}.lora_up.weight"]
            scale = lora[f"{key}.alpha"] / down.shape[0]
            weight: Any = part.weight
            changed[f"{path}.weight"] = weight + scale * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    assert 3 * len(changed) == sum(name.startswith(prefix) for name in lora)
    return changed


def _original(path: str) -> str:
    """A module of SDXL's tiny UNet as Stability's code names it, where it has another name there."""
    for place, name in _places().items():
        if path.startswith(place):
            rest = path.removeprefix(place)
            return name + {"_conv1": "_in_layers_2", "_time_emb_proj": "_emb_layers_1", "_conv2": "_out_layers_3"}.get(
                rest, rest.replace("_conv_shortcut", "_skip_connection")
            )
    return path


def _places() -> dict[str, str]:
    """Blocks of two levels: two resnets each on the way down, three on the way up, and a change of size between."""
    places = {
        "down_blocks_0_downsamplers_0_conv": "input_blocks_3_0_op",
        "up_blocks_0_upsamplers_0_conv": "output_blocks_2_2_conv",
        "mid_block_resnets_0": "middle_block_0",
        "mid_block_attentions_0": "middle_block_1",
        "mid_block_resnets_1": "middle_block_2",
    }
    for side, original, count, first in (("down", "input", 2, 1), ("up", "output", 3, 0)):
        for level, index in itertools.product(range(2), range(count)):
            for number, kind in enumerate(("resnets", "attentions")):
                place = f"{side}_blocks_{level}_{kind}_{index}"
                places[place] = f"{original}_blocks_{3 * level + index + first}_{number}"
    return places


def noises(options: dict[str, Any], raw: torch.Generator, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Of one sample, (C, h, w) each: what is to be predicted, and what corrupts.

    Args:
        raw: gives the random numbers, each of which belongs to the option after the one before.
    """
    shape = latents.shape

    def gaussian(*shape: int) -> Tensor:
        return torch.randn(shape, generator=raw).double()

    def strength(name: str) -> float:
        drawn = torch.rand((), generator=raw).item() if options.get(f"{name}_random_strength") else 1.0
        return float(options[name]) * drawn

    noise = gaussian(*shape)
    if "noise_offset" in options:
        offset = torch.full((4, 1, 1), strength("noise_offset"), dtype=torch.float64)
        if "adaptive_noise_scale" in options:
            mean = latents.mean(dim=(1, 2), keepdim=True).abs()
            offset = torch.maximum(offset + options["adaptive_noise_scale"] * mean, torch.zeros(()))
        noise = noise + offset * gaussian(4, 1, 1)
    for level in range(options.get("multires_noise_iterations", 0)):
        r = 2 + 2 * torch.rand((), generator=raw, dtype=torch.float64).item()
        height, width = (max(1, int(side / r**level)) for side in shape[1:])
        coarse = interpolate(gaussian(1, 4, height, width), size=shape[1:], mode="bilinear")[0]
        noise = noise + options["multires_noise_discount"] ** level * coarse
        if height == 1 or width == 1:
            break
    if "multires_noise_iterations" in options:
        noise = noise / noise.std()
    if "ip_noise_gamma" not in options:
        return noise, noise
    gamma = strength("ip_noise_gamma")
    return noise, noise + gamma * gaussian(*shape)


def alphas_bar(zero_snr: bool) -> Tensor:
    """(T,) of Stable Diffusion's schedule: square roots of beta evenly spaced; rescaled as Lin et al. 2023, algorithm 1."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64) ** 2
    roots = torch.cumprod(1 - betas, dim=0).sqrt()
    if zero_snr:
        roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    return roots**2


def distance(options: dict[str, Any], d: Tensor, t: Tensor, abar: Tensor) -> Tensor:
    kind = options.get("loss_type", "l2")
    if kind in ("l2", "l1"):
        return d**2 if kind == "l2" else d.abs()
    base, scale = options.get("huber_c", 0.1), options.get("huber_scale", 1.0)
    schedule = options.get("huber_schedule", "snr")
    if schedule == "constant":
        c = torch.full_like(abar, base * scale)
    elif schedule == "exponential":
        c = torch.exp(math.log(base) * t.double() / T).view(-1, 1, 1, 1) * scale
    else:
        c = (1 - base) / (1 + ((1 - abar) / abar).sqrt()) ** 2 + base
    return 2 * (c if kind == "huber" else 1) * ((d**2 + c**2).sqrt() - c)


def weight(options: dict[str, Any], abar: Tensor, predicts_v: bool) -> Tensor:
    """(B,) product of the weightings asked for."""
    snr = (abar / (1 - abar)).flatten()
    limited = snr.clamp(max=1000)
    weight = torch.ones_like(snr)
    if gamma := options.get("min_snr_gamma"):
        weight = weight * snr.clamp(max=gamma) / (snr + 1 if predicts_v else snr)
    if options.get("scale_v_pred_loss_like_noise_pred"):
        weight = weight * limited / (limited + 1)
    if amount := options.get("v_pred_like_loss"):
        weight = weight * (1 + amount * (limited + 1) / limited)
    if options.get("debiased_estimation_loss"):
        weight = weight / (limited + 1 if predicts_v else limited.sqrt())
    return weight
