"""Contact sheets: drawn pictures, samples of the demo model, and the VAE's reconstructions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image

from library.demo.captions import caption
from library.demo.drawing import draw
from library.demo.look import random_look

HELD_OUT_SEED = 20_000_000


def contact_sheet(pictures: Sequence[Image.Image], columns: int, enlarge: int = 1) -> Image.Image:
    """Pictures of one size in rows, enlarged without smoothing."""
    size = pictures[0].width * enlarge
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    for index, picture in enumerate(pictures):
        place = (index % columns * size, index // columns * size)
        sheet.paste(picture.resize((size, size), Image.Resampling.NEAREST), place)
    return sheet


def load_pipeline(model: Path) -> StableDiffusionPipeline:
    """The demo model in fp32, silent."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int, steps: int = 20, guidance: float = 3.0
) -> list[Image.Image]:
    """One 64x64 picture a prompt, each from its own noise."""
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(prompts))]
    return pipeline(
        list(prompts), height=64, width=64, num_inference_steps=steps, guidance_scale=guidance, generator=generators
    ).images


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Samples of captions that training never saw, beside drawings of the same."
    )
    parser.add_argument("--model", type=Path, default=Path("demo/model"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/demo_samples.png"))
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--columns", type=int, default=8)
    options = parser.parse_args()
    looks = [random_look(HELD_OUT_SEED + index) for index in range(options.count)]
    samples = sample(load_pipeline(options.model), [caption(look) for look in looks], seed=1)
    drawings = [draw(look, 64) for look in looks]
    rows = [range(start, start + options.columns) for start in range(0, options.count, options.columns)]
    ordered = [picture for row in rows for source in (drawings, samples) for picture in (source[i] for i in row)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(ordered, options.columns, enlarge=2).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
