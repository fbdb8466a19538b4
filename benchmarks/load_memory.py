"""Peak memory of loading a full-size model, against its size in the wanted type.

    python -m benchmarks.load_memory --family sd15

Writes models with random weights (folder and single file, fp32 and fp16), loads every part of each in a process of its
own, and reports the highest resident memory above that of the interpreter with its libraries.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from library.config.schema.model import ModelConfig
from library.models.checkpoint import read_folder
from library.models.load import load_model
from library.models.single_file import read_single_file
from library.models.weights import placed_shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="sd15", choices=["sd15", "sd2", "sdxl"])
    parser.add_argument("--stored", nargs="+", default=["fp32", "fp16"], choices=["fp32", "fp16"])
    parser.add_argument("--wanted", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--load", metavar="MODEL", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        print(json.dumps(measure(given.load, given.dtype)))
        return
    print(f"{'layout':<12}{'stored':<8}{'wanted':<10}{'size GB':>8}{'peak GB':>9}{'ratio':>7}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for stored in given.stored:
            for layout, name in (("folder", "model"), ("single_file", "model.safetensors")):
                path = Path(folder) / f"{stored}-{name}"
                write(given.family, layout, stored, path)
                for dtype in given.wanted:
                    report(layout, stored, dtype, in_new_process(path, dtype))


def write(family: str, layout: str, stored: str, path: Path) -> None:
    tool = [sys.executable, "-m", "library.models.random_weights"]
    subprocess.run([*tool, "--family", family, "--format", layout, "--dtype", stored, "--out", str(path)], check=True)


def in_new_process(path: Path, dtype: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--load", str(path), "--dtype", dtype]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def report(layout: str, stored: str, dtype: str, found: dict[str, float]) -> None:
    ratio = found["peak"] / found["size"]
    size, peak = found["size"] / 1e9, found["peak"] / 1e9
    print(
        f"{layout:<12}{stored:<8}{dtype:<10}{size:>8.2f}{peak:>9.2f}{ratio:>7.2f}{found['seconds']:>9.1f}", flush=True
    )


def measure(path: str, dtype: str) -> dict[str, float]:
    """Load every part and touch every weight; bytes above the interpreter's, and seconds."""
    import_libraries()
    before = peak_memory()
    began = time.perf_counter()
    model = load_model(ModelConfig(pretrained_model_name_or_path=path), getattr(torch, dtype), torch.device("cpu"))
    hosts = model.hosts(["unet", "text_encoders"])
    model.decode_latents(model.encode_images(torch.zeros(1, 3, 64, 64)).mean)
    seconds = time.perf_counter() - began
    for parameter in (parameter for host in hosts.values() for parameter in host.parameters()):
        parameter.view(-1)[::512].float().sum()  # mapped pages count only once they are touched
    return {"size": model_size(path, dtype), "peak": peak_memory() - before, "seconds": seconds}


def model_size(path: str, dtype: str) -> int:
    """Bytes of all the model's weights in that type."""
    checkpoint = read_folder(Path(path)) if Path(path).is_dir() else read_single_file(Path(path))
    shapes = [shape for part in checkpoint.components.values() for shape in placed_shapes(part.weights).values()]
    return sum(math.prod(shape) for shape in shapes) * {"float32": 4, "bfloat16": 2}[dtype]


def import_libraries() -> None:
    import accelerate  # noqa: F401
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: F401
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401


def peak_memory() -> int:
    """The highest resident memory of this process so far, in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


if __name__ == "__main__":
    main()
