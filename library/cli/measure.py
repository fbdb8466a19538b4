"""Measure what a LoRA learned, against held-out pictures, and what it changed without its trigger word.

    dojo measure --lora output/alexander/alexander.safetensors --held_out demo/held_out/alexander \\
                 --trigger_word alexander --class_word fighter

The captions of the held-out pictures are the prompts. docs/measuring.md describes the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from library.cli.arguments import add_model_arguments, command_parser, positive

if TYPE_CHECKING:
    from library.evaluation.likeness import Learning


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("measure", __doc__)
    add_model_arguments(parser)
    parser.add_argument(
        "--held_out", type=Path, required=True, help="pictures that were not trained, with captions (.txt)"
    )
    parser.add_argument("--trigger_word", required=True)
    parser.add_argument("--class_word", default="", help="stands in for the trigger")
    parser.add_argument("--first_seed", type=int, default=100)
    parser.add_argument("--steps", type=positive, default=20)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--sheet", type=Path, help="also save the pictures side by side")

    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Print the measures."""
    print(measured(parse(argv)).report())


def measured(arguments: argparse.Namespace) -> Learning:
    """Generate the pictures and compare them.

    Raises:
        UserError: no held-out pictures, or a model or LoRA that cannot be read.
    """
    from PIL import Image

    from library.cli.with_loras import load_with_loras
    from library.core.errors import UserError
    from library.data.captions.pipeline import without_trigger
    from library.evaluation.likeness import measure_learning
    from library.inference.requests import SampleRequest
    from library.inference.sheet import contact_sheet

    files = [path for path in sorted(arguments.held_out.glob("*.png")) if path.with_suffix(".txt").is_file()]
    if not files:
        raise UserError(f"--held_out {arguments.held_out}: no .png with a .txt caption beside it.")
    prompts = [path.with_suffix(".txt").read_text(encoding="utf-8").strip() for path in files]
    held_out = [Image.open(path).convert("RGB") for path in files]
    loaded = load_with_loras(arguments)
    side = loaded.model.latents.native_resolution
    seen: list[list[Image.Image]] = []

    def paint(wanted: Sequence[str], with_loras: bool) -> list[Image.Image]:
        requests = [
            SampleRequest(
                prompt,
                width=side,
                height=side,
                seed=arguments.first_seed + index,
                steps=arguments.steps,
                scale=arguments.scale,
            )
            for index, prompt in enumerate(wanted)
        ]
        seen.append(loaded.paint(requests, with_loras))
        return seen[-1]

    learning = measure_learning(
        paint, prompts, held_out, lambda prompt: without_trigger(prompt, arguments.trigger_word, arguments.class_word)
    )
    if arguments.sheet:
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        headings = ["held out", "without LoRA", "with LoRA", "no trigger, without", "no trigger, with"]
        contact_sheet([list(row) for row in zip(held_out, *seen)], prompts, headings).save(arguments.sheet)
    return learning
