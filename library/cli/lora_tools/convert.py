"""Write a LoRA under the names of another program. What it does to a model stays the same.

    dojo lora convert alexander.safetensors alexander_diffusers.safetensors --to diffusers
    dojo lora convert pytorch_lora_weights.safetensors anna.safetensors --to kohya

--to kohya            sd-scripts' names: what ComfyUI, A1111, Forge, diffusers and this trainer read
--to kohya-diffusers  the same with diffusers' names of the UNet, as ai-toolkit and OneTrainer write SDXL
--to diffusers        diffusers' own names (unet. ... lora_A.weight); LoRA and DoRA only

Every style is read, those of diffusers before PEFT and of PEFT itself (adapter_config.json beside the file) as well, and DoRA in each.
The metadata is kept, and the hashes in it are computed anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from library.cli.arguments import command_parser
from library.cli.lora_tools.output import DTYPES, add_family, check_out

TARGETS = ("kohya", "kohya-diffusers", "diffusers")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora convert", __doc__)
    parser.add_argument("file", type=Path, metavar="IN", help="LoRA file in any style")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--to", choices=TARGETS, required=True, help="style of the names")
    parser.add_argument(
        "--dtype", "--save_precision", choices=list(DTYPES), metavar="fp32|fp16|bf16", help="unset: as in the input"
    )
    parser.add_argument("--overwrite", action="store_true", help="let OUT be IN itself")
    add_family(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Convert one file, and say what became of it."""
    arguments = parse(argv)
    check_out(arguments.out, [] if arguments.overwrite else [arguments.file])
    import torch

    from library.core.errors import UserError
    from library.core.terminal import harmless
    from library.lora_files.convert import converted
    from library.lora_files.essentials import with_essentials
    from library.lora_files.file import save_lora
    from library.lora_files.names.styles import DESCRIBED
    from library.lora_files.reading import check_whole, read_any_style

    def types(tensors: Mapping[str, torch.Tensor]) -> set[torch.dtype]:
        return {tensor.dtype for tensor in tensors.values() if tensor.dim()}

    found = read_any_style(arguments.file, arguments.family)
    check_whole(found.tensors, arguments.file)
    try:
        tensors = converted(found.tensors, found.family, arguments.to)
    except UserError as error:
        raise UserError(f"{arguments.file.as_posix()}: {error}") from error
    metadata = with_essentials(found.metadata, found.tensors, found.family)
    dtype = None if arguments.dtype is None else getattr(torch, DTYPES[arguments.dtype])
    save_lora(arguments.out, tensors, metadata, dtype)
    lines = [
        f"{arguments.out.as_posix()}: {len(tensors)} tensors for {found.family}, "
        f"from {DESCRIBED[found.style]} to {arguments.to}."
    ]
    if dtype is None and torch.float32 in types(tensors) - types(found.tensors):
        lines.append(
            "Weights that take up alpha are stored as fp32, since their own type cannot hold the product exactly; "
            "--dtype fp16 rounds them."
        )
    print(harmless("\n".join(lines)))
