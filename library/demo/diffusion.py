"""Second stage: the demo model's UNet and text encoder, trained jointly on latents to predict the noise."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from library.demo.captions import training_caption
from library.demo.look import Look
from library.demo.text import TEXT_WIDTH, name_words, tokenize

MIN_SNR_GAMMA = 5.0


class Denoiser(nn.Module):
    """The two networks that train together."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = text_encoder

    def forward(self, noisy_BCHW: Tensor, t_B: Tensor, tokens_BL: Tensor) -> Tensor:
        return self.unet(noisy_BCHW, t_B, self.text_encoder(tokens_BL).last_hidden_state).sample


def build_unet() -> UNet2DConditionModel:
    """SD1's UNet in small; attention only at 8x8 and 4x4, which halves the time of a step and costs no visible quality."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """SD1's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


class DenoisingLoss:
    """Noise prediction error over latents kept as mean and standard deviation, (N, 4, 16, 16) each, already scaled."""

    def __init__(
        self, denoiser: Denoiser, tokenizer: CLIPTokenizer, means: Tensor, deviations: Tensor, looks: Sequence[Look]
    ) -> None:
        self._denoiser, self._tokenizer = denoiser, tokenizer
        self._means, self._deviations, self._looks = means, deviations, looks
        self._names = name_words(tokenizer, looks)
        self._alphas_T = build_scheduler().alphas_cumprod

    def __call__(self, indices_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The min-SNR weighted loss (Hang et al. 2023, eq. 9), and the plain mean squared error."""
        latents_BCHW = self._sample_latents(indices_B, generator)
        noise_BCHW = torch.randn(latents_BCHW.shape, generator=generator)
        t_B = torch.randint(len(self._alphas_T), indices_B.shape, generator=generator)
        alpha_B111 = self._alphas_T[t_B][:, None, None, None]
        noisy_BCHW = alpha_B111.sqrt() * latents_BCHW + (1 - alpha_B111).sqrt() * noise_BCHW
        predicted_BCHW = self._denoiser(noisy_BCHW, t_B, self._tokens(indices_B, generator)).float()
        error_B = (predicted_BCHW - noise_BCHW).square().mean(dim=(1, 2, 3))
        snr_B = self._alphas_T[t_B] / (1 - self._alphas_T[t_B])
        return (error_B * snr_B.clamp(max=MIN_SNR_GAMMA) / snr_B).mean(), error_B.mean().detach()

    def _sample_latents(self, indices_B: Tensor, generator: torch.Generator) -> Tensor:
        means_BCHW = self._means[indices_B]
        return means_BCHW + self._deviations[indices_B] * torch.randn(means_BCHW.shape, generator=generator)

    def _tokens(self, indices_B: Tensor, generator: torch.Generator) -> Tensor:
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        captions = [training_caption(self._looks[index], self._names, rng) for index in indices_B.tolist()]
        return tokenize(self._tokenizer, captions)


def save_pipeline(denoiser: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Write the whole Stable Diffusion pipeline, weights in fp16.

    The tokenizer's files are copied: saved by transformers they would gain a tokenizer.json of 3.6 MB.
    """
    pipeline = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=copy.deepcopy(denoiser.text_encoder).half(),
        tokenizer=tokenizer,
        unet=copy.deepcopy(denoiser.unet).half(),
        scheduler=build_scheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.save_config(out)
    for part in ("vae", "text_encoder", "unet", "scheduler"):
        getattr(pipeline, part).save_pretrained(out / part)
    if not (out / "tokenizer").exists():
        shutil.copytree(tokenizer.name_or_path, out / "tokenizer")
