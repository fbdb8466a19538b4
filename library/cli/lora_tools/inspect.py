"""Show what LoRA files hold: what they are for, how they were trained, and where and how strongly they act.

    dojo lora inspect alexander.safetensors
    dojo lora inspect alexander.safetensors --picture alexander_blocks.png
    dojo lora inspect *.safetensors --json > loras.json

Norms are Frobenius norms of the change of the weights at strength 1, together over a block's layers. Blocks are called as in
block-merging extensions: te1 and te2 the text encoders, IN00 to IN11 the UNet's way down, M00 its middle, OUT00 to OUT11 its way up.
The table of ranks tells how much of the change a LoRA resized to that rank would keep (`dojo lora resize`).

Exit status 2 where a file is damaged or no LoRA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from library.cli.arguments import command_parser
from library.cli.lora_tools.output import add_family


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora inspect", __doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="LoRA files in any style")
    parser.add_argument("--json", action="store_true", help="everything as JSON, a list with an entry a file")
    parser.add_argument(
        "--metadata", action="store_true", help="every entry of the metadata, not the important ones alone"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="draw the norms, block by kind of layer (one file only)"
    )
    add_family(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Report on each file; returns the exit status."""
    arguments = parse(argv)
    import json

    import torch

    from library.cli.lora_tools.report import as_table, report_text
    from library.core.errors import Exit, UserError, raise_all
    from library.core.terminal import harmless
    from library.lora_files.inspect import FileReport, inspect

    torch.set_num_threads(
        1
    )  # the matrices are of the rank's size; threads would wait for one another more than they work
    if arguments.picture and len(arguments.files) > 1:
        raise UserError(f"--picture draws one file, and {len(arguments.files)} are given.")
    reports: list[FileReport] = []
    mistakes: list[str] = []
    for file in arguments.files:
        try:
            reports.append(inspect(file, arguments.family))
        except UserError as error:
            mistakes.append(str(error))
            continue
        if not arguments.json:
            print(harmless(report_text(reports[-1], arguments.metadata)), end="\n\n")
    if arguments.json:
        print(json.dumps([as_table(report) for report in reports], indent=2, ensure_ascii=True))
    if arguments.picture and reports:
        from library.cli.lora_tools.picture import draw_norms
        from library.lora_files.sidecars import save_picture

        save_picture(draw_norms(reports[0]), arguments.picture)
    sys.stdout.flush()
    raise_all(mistakes)
    return Exit.MISTAKE if any(report.broken for report in reports) else Exit.COMPLETE
