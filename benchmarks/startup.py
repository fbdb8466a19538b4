"""Time from the command to the end of the first step, line by line of train_network.py, with empty and with full caches.

    python -m benchmarks.startup --work /tmp/full_size --repetitions 3 [--launch] [--reference]

`--launch` goes through `accelerate launch`; `--reference` times a plain script of diffusers and peft that does the same. Sides take
turns in every repetition; printed are medians in seconds. The model has random weights in the run's type and is made once.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import ROOT
from benchmarks.full_size import draw_pictures, make_model

MARK = "MARKS "
WHOLE = "to the end of the first step"


def main() -> None:
    """Turns of every side, then the medians."""
    if sys.argv[1:2] == ["--marked"]:
        run_marked(sys.argv[2:])
        return
    if sys.argv[1:2] == ["--plain"]:
        plain(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
        return
    arguments = parse()
    model, pictures = prepare(arguments)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.repetitions):
        cache = arguments.work / "startup-cache"
        shutil.rmtree(cache, ignore_errors=True)
        for side in ("cold", "warm"):
            command = [*launcher(arguments.launch), "--marked", *flags(arguments, model, pictures, cache)]
            found[side].append(timed(command))
        if arguments.reference:
            command = [*launcher(False), "--plain", str(model), str(pictures), str(arguments.resolution)]
            found["reference"].append(timed(command))
    for side, runs in found.items():
        report(side, runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--launch", action="store_true", help="start with accelerate launch")
    parser.add_argument("--reference", action="store_true", help="time a plain script too")
    parser.add_argument("--work", type=Path, default=Path("full_size"), help="where model and pictures are kept")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Model and pictures, made where they are not there yet."""
    model = make_model(arguments.work, "sd15", "bf16")
    folder = arguments.work / f"startup-pictures-{arguments.resolution}-{arguments.pictures}"
    return model, draw_pictures(folder.absolute(), arguments.resolution, arguments.pictures)


def launcher(accelerate: bool) -> list[str]:
    """This script in a process of its own."""
    start = [str(Path(sys.executable).with_name("accelerate")), "launch"] if accelerate else [sys.executable]
    return [*start, "-m", "benchmarks.startup"]


def flags(arguments: argparse.Namespace, model: Path, pictures: Path, cache: Path) -> list[str]:
    """The options of the run."""
    from benchmarks.sides import Workload, command_line  # imports torch, which the timed process must not do early

    once = [
        "--max_train_steps",
        "1",
        "--cache_text_encoder_outputs_to_disk",
        "true",
        "--cache_dir",
        str(cache.absolute()),
    ]
    output = arguments.work.absolute() / "startup-output"
    return command_line(Workload(model, pictures, output, arguments.resolution, options=once))


def timed(command: list[str]) -> dict[str, float]:
    """Seconds of each part of one run, and of all up to the end of the first step."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["STARTED_AT"] = str(time.time())
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    told = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
    if result.returncode or not told:
        raise SystemExit(f"the run failed:\n{result.stdout}\n{result.stderr}")
    return json.loads(told[-1].removeprefix(MARK))


def report(side: str, runs: list[dict[str, float]]) -> None:
    """Medians of the parts that take more than 50 ms, and of the whole."""
    totals = ", ".join(f"{run[WHOLE]:.1f}" for run in runs)
    print(f"\n{side}: {totals} s {WHOLE}")
    for part in runs[0]:
        median = statistics.median(run[part] for run in runs)
        if median >= 0.05:
            print(f"  {median:6.2f}  {part}")


class Marks:
    """Seconds between marks."""

    def __init__(self) -> None:
        self.started = float(os.environ["STARTED_AT"])
        self.last = self.started
        self.parts: dict[str, float] = {}

    def __call__(self, part: str) -> None:
        now = time.time()
        self.parts[part] = now - self.last
        self.last = now

    def end_of_first_step(self) -> None:
        """Tell everything, once; what comes after is no part of the start."""
        if WHOLE not in self.parts:
            self("first step")
            self.parts[WHOLE] = self.last - self.started
            print(MARK + json.dumps(self.parts), flush=True)


def run_marked(argv: list[str]) -> None:
    """train_network.py with a mark after each statement of its `train`."""
    file = ROOT / "train_network.py"
    sys.argv = [str(file), *argv]
    marks = Marks()
    marks("launcher and interpreter")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    for place in range(len(body), 0, -1):
        statement = body[place - 1]
        label = "imports" if isinstance(statement, ast.With) else ast.unparse(statement).split("\n")[0]
        body.insert(place, ast.parse(f"mark({label!r})").body[0])
        if isinstance(statement, ast.With):
            body.insert(place + 1, ast.parse("watch()").body[0])
    program = compile(ast.fix_missing_locations(tree), str(file), "exec")
    exec(program, {"__name__": "__main__", "__file__": str(file), "mark": marks, "watch": lambda: watch(marks)})


def watch(marks: Marks) -> None:
    """Mark the end of the first update."""
    from library.training.step import Trainer

    update = Trainer.update_weights

    def marked(*args: object, **kwargs: object) -> object:
        figures = update(*args, **kwargs)  # type: ignore[arg-type]
        marks.end_of_first_step()
        return figures

    Trainer.update_weights = marked  # type: ignore[method-assign,assignment]


def plain(model: Path, pictures: Path, resolution: int) -> None:
    """The same start as a plain script: everything loaded by its library, pictures encoded one by one."""
    marks = Marks()
    import numpy as np
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from peft import LoraConfig
    from PIL import Image
    from transformers import CLIPTextModel, CLIPTokenizer

    marks("imports")
    kind = {"torch_dtype": torch.bfloat16, "local_files_only": True}
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(model / "text_encoder", **kind)
    vae = AutoencoderKL.from_pretrained(model / "vae", **kind)
    unet = UNet2DConditionModel.from_pretrained(model / "unet", **kind).requires_grad_(False)
    schedule = DDPMScheduler.from_pretrained(model / "scheduler")
    marks("models")
    cached = []
    with torch.no_grad():
        for file in sorted(pictures.glob("*.png")):
            picture = Image.open(file).convert("RGB").resize((resolution, resolution), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
            latents = vae.encode(pixels.bfloat16()).latent_dist.sample() * vae.config.scaling_factor
            words = file.with_suffix(".txt").read_text(encoding="utf-8")
            tokens = tokenizer(words, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            cached.append((latents, encoder(tokens.input_ids)[0]))
    marks("caching")
    unet.add_adapter(LoraConfig(r=32, lora_alpha=32, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    trained = [weight.requires_grad_() for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    marks("network")
    latents, hidden = cached[0]
    noise, t = torch.randn_like(latents), torch.randint(0, 1000, (1,))
    predicted = unet(schedule.add_noise(latents, noise, t), t, hidden).sample
    torch.nn.functional.mse_loss(predicted.float(), noise.float()).backward()
    optimizer.step()
    marks.end_of_first_step()


if __name__ == "__main__":
    main()
