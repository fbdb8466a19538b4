"""Pictures encoded in a second: ours against decoding and encoding them one by one, in turns in one process.

    python -m benchmarks.caching --work /tmp/full_size --resolution 512 --batch 2 --dtype bf16

Both sides read the same PNG files of twice the resolution, use the same VAE of Stable Diffusion 1.5 with random weights, and leave
the latents of each picture on the disk. The reference works as sd-scripts does with a batch of one: open, resize, encode, save, one after another.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.full_size import make_model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main() -> None:
    """Turns of both sides and their ratio."""
    arguments = parse()
    device = torch.device(arguments.device)
    model, pictures = prepare(arguments)
    sides = {
        "reference": reference(arguments, model, pictures, device),
        "ours": ours(arguments, model, pictures, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.turns + 1):
        for name, encode_all in sides.items():
            output = arguments.work / "caching-output"
            shutil.rmtree(output, ignore_errors=True)
            started = time.perf_counter()
            encode_all(output)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
            assert sum(path.stat().st_size for path in output.rglob("*.*")) > 0
    for name, turns in seconds.items():
        print(f"{name}: {arguments.pictures / statistics.median(turns):.3f} pictures a second")
    ratios = [plain / own for plain, own in zip(seconds["reference"], seconds["ours"])]
    print(
        f"ratio of each pair of turns: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; median {statistics.median(ratios):.2f}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1, help="vae_batch_size of our side")
    parser.add_argument("--dtype", default="bf16", choices=sorted(DTYPES))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where model and pictures are kept")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Model and pictures, made where they are not there yet."""
    from library.demo.drawing import draw
    from library.demo.look import random_look

    model = make_model(arguments.work, "sd15", arguments.dtype)
    pictures = arguments.work / f"caching-pictures-{arguments.resolution}-{arguments.pictures}"
    pictures.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.pictures):
        file = pictures / f"{seed}.png"
        if not file.exists():
            draw(random_look(seed), 2 * arguments.resolution).save(file)
    return model, pictures


def reference(
    arguments: argparse.Namespace, model: Path, pictures: Path, device: torch.device
) -> Callable[[Path], None]:
    """One picture after another, in plain diffusers."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model / "vae", torch_dtype=DTYPES[arguments.dtype]).to(device).eval()
    side = (arguments.resolution, arguments.resolution)

    @torch.no_grad()
    def encode_all(output: Path) -> None:
        output.mkdir(parents=True)
        for file in sorted(pictures.glob("*.png")):
            picture = Image.open(file).convert("RGB").resize(side, Image.Resampling.LANCZOS)
            pixels_BCHW = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
            latents = vae.encode(pixels_BCHW.to(device, vae.dtype)).latent_dist.sample().float().cpu()
            np.savez(output / f"{file.stem}.npz", latents=latents.numpy())

    return encode_all


def ours(arguments: argparse.Namespace, model: Path, pictures: Path, device: torch.device) -> Callable[[Path], None]:
    """What a run does between looking at the pictures and training."""
    from library.config.dataset import resolve_datasets
    from library.config.load import load_config
    from library.core.runtime import keep_freed_memory, use_all_cores
    from library.data.cache.filling import cache_latents
    from library.data.cache.store import TensorCache
    from library.data.checks.preflight import preflight
    from library.data.dataset import build_training_data
    from library.models.load import load_model

    keep_freed_memory()
    if device.type == "cpu":
        use_all_cores(1)
    options = {"pretrained_model_name_or_path": model, "train_data_dir": pictures, "resolution": arguments.resolution}
    config = load_config([word for key, value in options.items() for word in (f"--{key}", str(value))]).config
    datasets, _ = resolve_datasets(config)
    base = load_model(config.model, DTYPES[arguments.dtype], device)
    data = build_training_data(datasets, preflight(datasets).pictures, seed=0, stride=base.latents.stride)

    def encode_all(output: Path) -> None:
        cache = TensorCache(output)
        cache_latents(data, base.encode_images, fingerprint="", cache=cache, batch_size=arguments.batch)

    return encode_all


if __name__ == "__main__":
    main()
