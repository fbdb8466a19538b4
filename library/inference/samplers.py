"""Samplers by sd-scripts' names: diffusers' schedulers, set up for a model's noise process."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from library.core.errors import UserError
from library.diffusion.process import NoiseProcess

_AS_TRAINED = {"set_alpha_to_one": False, "steps_offset": 1}
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {**_AS_TRAINED, "clip_sample": False}),
    "pndm": ("PNDMScheduler", {**_AS_TRAINED, "skip_prk_steps": True}),
    "lms": ("LMSDiscreteScheduler", {}),
    "k_lms": ("LMSDiscreteScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "k_euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "k_euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "k_dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
}
"""Name in configs and prompt files -> diffusers' class and its settings beyond the process."""
SMALLEST_ABAR = 2.0**-24
"""Stands for zero under a zero terminal SNR, where samplers divide by it (diffusers' own choice)."""


def make_sampler(name: str, process: NoiseProcess) -> Any:
    """diffusers' scheduler for a model with this process.

    Raises:
        UserError: no sampler of that name, or it needs a package that is not installed.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler '{name}' is not known. Known: {', '.join(SAMPLERS)}.")
    class_name, settings = SAMPLERS[name]
    if class_name == "LMSDiscreteScheduler" and find_spec("scipy") is None:
        raise UserError(f"sampler '{name}' needs the package scipy. Run `pip install scipy`, or take euler.")
    import diffusers

    ends_in_noise = bool(process.alphas_bar[-1] <= 0)
    return getattr(diffusers, class_name)(
        num_train_timesteps=process.num_timesteps,
        trained_betas=betas_of(process).tolist(),
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[process.prediction],
        # the last timestep must be among those sampled where the model was trained down to pure noise (Lin et al. 2023)
        **({"timestep_spacing": "trailing"} if ends_in_noise else {}),
        **settings,
    )


def betas_of(process: NoiseProcess) -> Tensor:
    """The variances (T,), float64, of a process; from the SNR, which keeps its digits where abar is near one."""
    snr_T = process.snr(torch.arange(process.num_timesteps, device=process.alphas_bar.device)).cpu().double()
    abar_T = (snr_T / (1 + snr_T)).clamp(min=SMALLEST_ABAR)
    before_T = torch.cat([torch.ones(1, dtype=torch.float64), abar_T[:-1]])
    return 1 - abar_T / before_T
