"""How long `dojo check` takes, as a command in a process of its own, on 100 pictures of several kinds.

    python -m benchmarks.check --work /tmp/check [--repetitions 5] [--whole]

Cold: nothing is known of the pictures (though their bytes may be in the system's cache). Warm: the manifest of the look before is there.
`--whole` estimates memory and time too. Printed are the median and the extremes in seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from benchmarks import ROOT

MODEL = ROOT / "demo" / "model"
KINDS = {
    "photo.jpg": (20, (4000, 3000)),
    "small.jpg": (30, (1216, 832)),
    "drawn.png": (30, (1024, 1024)),
    "web.webp": (20, (1280, 853)),
}
"""Name and ending -> how many, and their size: cameras' JPEGs of 12 megapixels, downloaded ones, PNG and WebP of about one."""


def main() -> None:
    """Cold and warm in turn, then the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    pictures = draw(arguments.work / "pictures")
    found: dict[str, list[float]] = {"cold": [], "warm": [], "warm, with sheet": []}
    for _ in range(arguments.repetitions):
        shutil.rmtree(arguments.work / "cache", ignore_errors=True)
        for side in found:
            sheet = ["--sheet", str(arguments.work / "sheet.png")] if "sheet" in side else []
            fast = [] if arguments.whole else ["--fast"]
            found[side].append(timed(pictures, arguments.work / "cache", *sheet, *fast))
    size = sum(path.stat().st_size for path in pictures.iterdir()) / 1e6
    print(f"{sum(count for count, _ in KINDS.values())} pictures, {size:.0f} MB")
    for side, seconds in found.items():
        print(f"{side:17} {statistics.median(seconds):.2f}  ({min(seconds):.2f} to {max(seconds):.2f})")


def draw(folder: Path) -> Path:
    """Pictures with soft shapes, edges and grain, which compress about as photographs do; made once."""
    if folder.is_dir():
        return folder
    filling = folder.with_name("filling")
    shutil.rmtree(filling, ignore_errors=True)
    filling.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (count, size) in KINDS.items():
        stem, ending = name.split(".")
        for number in range(count):
            shapes = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            edges = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.NEAREST
            )
            image = Image.blend(shapes, edges.filter(ImageFilter.GaussianBlur(1)), 0.3)
            grain = rng.normal(0, 4, (size[1], size[0], 1))
            pixels = np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)
            file = filling / f"{stem}{number:03}.{ending}"
            Image.fromarray(pixels).save(file, quality=92)
            file.with_suffix(".txt").write_text(f"anna, woman, photograph, pose {number}", encoding="utf-8")
    filling.replace(folder)
    return folder


def timed(pictures: Path, cache: Path, *options: str) -> float:
    """Seconds from the start of the command to its end."""
    program = "import sys; from library.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [
        "check",
        "--train_data_dir",
        str(pictures),
        "--pretrained_model_name_or_path",
        str(MODEL),
        "--enable_bucket",
    ]
    words += ["--resolution", "512", "--trigger_word", "anna", "--cache_dir", str(cache), *options]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, *words], cwd=ROOT, env=os.environ, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL, check=True)  # fmt: skip
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
