"""Trains the demo model: `python -m library.demo.train --stage vae`, then `text`, `diffusion` and `decoder`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from library.demo.autoencoder import autoencoder_loss, build_autoencoder, encode_all, to_pixels, vary_colours
from library.demo.diffusion import Denoiser, DenoisingLoss, save_pipeline
from library.demo.look import random_look
from library.demo.loop import Plan, fit
from library.demo.pictures import base_pictures
from library.demo.text import ReadingLoss, TagReader, build_text_encoder


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pictures = base_pictures(options.pictures, options.work / f"pictures-{options.pictures}.npy", options.threads)
    STAGES[options.stage](pictures, plan_of(options), options.out)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, required=True)
    parser.add_argument("--out", type=Path, default=Path("demo/model"), help="the diffusers folder to write")
    parser.add_argument("--work", type=Path, default=Path("demo/work"), help="drawn pictures and checkpoints")
    parser.add_argument("--log", type=Path, default=Path("demo/training_log.csv"))
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def plan_of(options: argparse.Namespace) -> Plan:
    return Plan(
        stage=options.stage,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        checkpoint=options.work / f"{options.stage}.pt",
        log=options.log,
        warmup=min(200, options.steps // 10),
    )


def train_autoencoder(pictures, plan: Plan, out: Path) -> None:
    """Train the VAE, then set the scaling factor with which its latents have a standard deviation of one."""
    vae = build_autoencoder()
    _fit_autoencoder(vae, pictures, plan)
    means, deviations = encode_all(vae, pictures[:2000])
    scale = 1.0 / (means.var() + deviations.square().mean()).sqrt().item()
    vae.register_to_config(scaling_factor=round(scale, 5))
    vae.save_pretrained(out / "vae")


def train_decoder(pictures, plan: Plan, out: Path) -> None:
    """Train the decoder alone: the latents, and so the UNet, stay as they are."""
    vae = AutoencoderKL.from_pretrained(out / "vae", torch_dtype=torch.float32)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    _fit_autoencoder(vae, pictures, plan)
    vae.half().save_pretrained(out / "vae")


def _fit_autoencoder(vae: AutoencoderKL, pictures, plan: Plan) -> None:
    def loss_of(indices_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pixels_BCHW = to_pixels(pictures[indices_B.sort().values.numpy()])
        return autoencoder_loss(vae, vary_colours(pixels_BCHW, generator), generator)

    fit(vae, loss_of, len(pictures), plan, on_save=lambda step: None)


def train_text_encoder(pictures, plan: Plan, out: Path) -> None:
    """Teach the text encoder to read captions."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    reader = TagReader(build_text_encoder(len(tokenizer)))
    looks = [random_look(seed) for seed in range(len(pictures))]
    fit(reader, ReadingLoss(reader, tokenizer, looks), len(looks), plan, on_save=lambda step: None)
    reader.text_encoder.save_pretrained(out / "text_encoder")


def train_diffusion(pictures, plan: Plan, out: Path) -> None:
    """Train UNet and text encoder on encoded pictures; every checkpoint is also written as a pipeline beside itself."""
    vae = AutoencoderKL.from_pretrained(out / "vae", torch_dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    scale = vae.config.scaling_factor
    means, deviations = (scale * part for part in encode_all(vae, pictures))
    looks = [random_look(seed) for seed in range(len(pictures))]
    denoiser = Denoiser(CLIPTextModel.from_pretrained(out / "text_encoder", dtype=torch.float32))
    loss_of = DenoisingLoss(denoiser, tokenizer, means, deviations, looks)

    def keep_pipeline(step: int) -> None:
        save_pipeline(denoiser, vae, tokenizer, plan.checkpoint.with_suffix(""))

    fit(denoiser, loss_of, len(pictures), plan, on_save=keep_pipeline)
    save_pipeline(denoiser, vae, tokenizer, out)


STAGES = {"vae": train_autoencoder, "text": train_text_encoder, "diffusion": train_diffusion, "decoder": train_decoder}

if __name__ == "__main__":
    main()
