"""Train full-size Stable Diffusion with random weights for ten steps, from a folder and from a single file.

    python -m benchmarks.full_size --family sd15 --resolution 256 --work /tmp/full_size

Prints for each: seconds from the command to the end, seconds a step, and the peak resident memory of the training process.
The pictures are drawn by the demo's code; the models are made once and kept in `--work`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import ROOT


def main() -> None:
    """Make the models and the pictures, then train on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--mixed_precision", default="bf16")
    parser.add_argument("--work", type=Path, default=Path("full_size"))
    arguments = parser.parse_args()
    pictures = draw_pictures(arguments.work / "pictures", arguments.resolution)
    for layout in ("folder", "single_file"):
        model = make_model(arguments.work, arguments.family, "fp16", layout)
        print(layout, json.dumps(train(arguments, model, pictures)), flush=True)


def draw_pictures(folder: Path, resolution: int, count: int = 4) -> Path:
    """Captioned pictures of fighters."""
    from library.demo.captions import caption
    from library.demo.drawing import draw
    from library.demo.look import random_look

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        look = random_look(seed)
        draw(look, resolution).save(folder / f"{seed}.png")
        (folder / f"{seed}.txt").write_text(caption(look), encoding="utf-8")
    return folder


def make_model(work: Path, family: str, dtype: str, layout: str = "folder") -> Path:
    """The model with random weights, made once.

    Args:
        dtype: fp32, fp16 or bf16.
        layout: "folder" or "single_file".
    """
    path = work.absolute() / (f"{family}-{dtype}" + (".safetensors" if layout == "single_file" else ""))
    if not path.exists():
        command = ["--family", family, "--format", layout, "--dtype", dtype, "--out", str(path)]
        subprocess.run([sys.executable, "-m", "library.models.random_weights", *command], cwd=ROOT, check=True)
    return path


def train(arguments: argparse.Namespace, model: Path, pictures: Path) -> dict[str, float]:
    """One run of the real entry point; its figures."""
    options = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": pictures,
        "resolution": arguments.resolution,
        "max_train_steps": arguments.steps,
        "network_dim": 32,
        "network_train_unet_only": True,
        "cache_latents": True,
        "cache_text_encoder_outputs": True,
        "mixed_precision": arguments.mixed_precision,
        "learning_rate": 1e-4,
        "seed": 0,
        "output_dir": arguments.work / "output",
    }
    flags = [
        word
        for key, value in options.items()
        for word in (f"--{key}", str(value).lower() if isinstance(value, bool) else str(value))
    ]
    started = time.perf_counter()
    command = ["/usr/bin/time", "-v", sys.executable, str(ROOT / "train_network.py"), *flags]
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    peak = re.search(r"Maximum resident set size \(kbytes\): (\d+)", result.stderr)
    speed = re.findall(r"([\d.]+)s/it|([\d.]+)it/s", result.stderr)
    seconds = float(speed[-1][0]) if speed and speed[-1][0] else 1 / float(speed[-1][1]) if speed else float("nan")
    return {
        "total_s": round(time.perf_counter() - started, 1),
        "step_s": round(seconds, 3),
        "peak_GiB": round(int(peak.group(1)) / 2**20, 2) if peak else float("nan"),
    }


if __name__ == "__main__":
    main()
