"""Time and peak memory of the tools on LoRA files, on inputs of full size.

    python -m benchmarks.lora_tools --family sd15
    python -m benchmarks.lora_tools --family sdxl --model sdxl.safetensors

Writes two LoRAs with random weights at the shapes of the published model, runs each tool on them in a process of its own, and
reports seconds, the highest resident memory of that process (mapped files included), and the size of what it wrote. With --model
it also merges into that checkpoint and extracts a LoRA from the result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from library.core.disk import amount
from library.core.runtime import quiet_libraries
from library.lora_files.file import save_lora
from library.models.rewriting.stored_places import PUBLISHED, published_places

FAMILIES = {published: family for family, published in PUBLISHED.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd15", choices=list(FAMILIES))
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--model", type=Path, help="a checkpoint of the family, to merge into and to extract from")
    parser.add_argument("--scratch", type=Path, help="folder for the files; unset: a temporary one")
    given = parser.parse_args()
    quiet_libraries()
    print(f"{'tool':<34}{'seconds':>9}{'peak':>10}{'written':>10}")
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = Path(scratch)
        one, other = (random_lora(folder / f"{seed}.safetensors", given.family, given.rank, seed) for seed in (0, 1))
        half = str(given.rank // 2)
        timed("inspect", folder, ["inspect", one])
        timed("merge, exact", folder, ["merge", f"{one}:0.8", f"{other}:0.6", "--out", folder / "out.safetensors"])
        timed(
            "merge --rank",
            folder,
            ["merge", f"{one}:0.8", f"{other}:0.6", "--rank", half, "--out", folder / "out.safetensors"],
        )
        timed("resize --rank", folder, ["resize", one, folder / "out.safetensors", "--rank", half])
        timed("resize --frobenius", folder, ["resize", one, folder / "out.safetensors", "--frobenius", "0.9"])
        timed("convert", folder, ["convert", one, folder / "out.safetensors", "--to", "diffusers"])
        if given.model:
            out = folder / ("merged.safetensors" if given.model.is_file() else "merged")
            timed("merge --into", folder, ["merge", f"{one}:0.8", "--into", given.model, "--out", out], out)
            extracting = ["extract", "--base", given.model, "--tuned", out, "--rank", half, "--min_diff", "0"]
            timed("extract --rank", folder, [*extracting, "--out", folder / "out.safetensors"])


def random_lora(path: Path, family: str, rank: int, seed: int) -> Path:
    """Every linear of the family, fp16."""
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, place in published_places(FAMILIES[family]).items():
        if place.scope == "attention":
            outputs, inputs, *kernel = place.shape
            ones = [1] * len(kernel)
            tensors[f"{key}.lora_down.weight"] = (torch.randn(rank, inputs, *ones, generator=draw) * 0.03).half()
            tensors[f"{key}.lora_up.weight"] = (torch.randn(outputs, rank, *ones, generator=draw) * 0.01).half()
            tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    save_lora(path, tensors, {"ss_network_module": "networks.lora", "ss_network_dim": str(rank)})
    return path


def timed(name: str, folder: Path, words: list[object], out: Path | None = None) -> None:
    """Run `dojo lora` with these words and print what it took."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "library.cli.main", "lora", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    told = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        print(f"{name:<34}{told.splitlines()[-1]}")
        return
    written = out or folder / "out.safetensors"
    files = [written] if written.is_file() else [file for file in written.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{name:<34}{seconds:>9.1f}{amount(usage.ru_maxrss * 1024):>10}{amount(size):>10}", flush=True)


if __name__ == "__main__":
    main()
