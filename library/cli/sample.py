"""Generate pictures with one or several LoRAs at chosen strengths.

    dojo sample --lora output/alexander/alexander.safetensors:0.8 --prompt "alexander, fighter, kicking" --out pictures

Without --pretrained_model_name_or_path the embedded demo model is used. Prompt files are those of training.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from library.cli.arguments import add_model_arguments, command_parser, positive


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("sample", __doc__)
    add_model_arguments(parser)
    parser.add_argument("--prompt", nargs="*", default=[], help="prompts, with flags such as '--d 1' inside the quotes")
    parser.add_argument("--sample_prompts", type=Path, help="a prompt file: .txt, .toml or .json")
    parser.add_argument("--width", type=positive)
    parser.add_argument("--height", type=positive)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=positive, default=30)
    parser.add_argument("--scale", type=float, default=7.5, help="classifier-free guidance")
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder for the pictures")

    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Generate, save each picture, and a sheet of all."""
    arguments = parse(argv)
    from tqdm import tqdm

    from library.cli.with_loras import load_with_loras
    from library.core.errors import UserError
    from library.inference.prompts import read_prompts, request_of_line
    from library.inference.requests import SampleRequest
    from library.inference.sheet import contact_sheet
    from library.lora_files.sidecars import save_picture

    loaded = load_with_loras(arguments)
    side = loaded.model.latents.native_resolution
    default = SampleRequest(
        "", width=arguments.width or side, height=arguments.height or side, seed=arguments.seed,
        steps=arguments.steps, scale=arguments.scale, sampler=arguments.sampler,
    )  # fmt: skip
    stride = loaded.model.latents.stride
    requests = [request_of_line(line, default, stride) for line in arguments.prompt]
    if arguments.sample_prompts:
        requests += read_prompts(arguments.sample_prompts, default, stride)
    if not requests:
        raise UserError("nothing to generate: give --prompt or --sample_prompts.")
    pictures = []
    for index, request in enumerate(tqdm(requests, desc="pictures")):
        (picture,) = loaded.paint([request])
        save_picture(picture, arguments.out / f"{index:02d}_{request.seed}.png")
        pictures.append(picture)
    sheet = contact_sheet([[picture] for picture in pictures], [request.prompt for request in requests], [])
    save_picture(sheet, arguments.out / "sheet.png")
    print(f"{len(pictures)} pictures in {arguments.out}")
