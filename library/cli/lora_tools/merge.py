"""Put several LoRAs together: into one LoRA, or into a checkpoint.

    dojo lora merge alexander.safetensors:0.8 kungfustyle.safetensors:0.6 --out both.safetensors
    dojo lora merge alexander.safetensors:0.8 kungfustyle.safetensors:0.6 --out both.safetensors --rank 32
    dojo lora merge content.safetensors style.safetensors --only up_blocks.0.attentions.0 --only up_blocks.0.attentions.1 \\
                    --out both.safetensors
    dojo lora merge alexander.safetensors:0.8 --into model.safetensors --out merged.safetensors

Without --rank the result is exact and its ranks are the sums of the inputs' ranks; with it the sum is cut off after so many
singular values, which is the nearest LoRA of that rank. A checkpoint keeps everything else that is in it. docs/lora_files.md
tells more.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from library.cli.arguments import command_parser, positive
from library.cli.lora_tools.output import DTYPES, add_family, add_out, check_out, counted, described_size, stored_dtype
from library.core.errors import UserError
from library.core.terminal import harmless

if TYPE_CHECKING:
    import torch

    from library.lora_files.provenance import Source
    from networks.files.combine import Ingredient


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora merge", __doc__)
    parser.add_argument(
        "loras", nargs="*", metavar="FILE[:STRENGTH]", help="LoRA files, each with its strength (1 if left out)"
    )
    parser.add_argument("--models", nargs="+", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--ratios", nargs="+", type=float, default=[], help=argparse.SUPPRESS)
    add_out(parser)
    parser.add_argument("--rank", "--new_rank", type=positive, help="of the result; unset: exact, ranks add up")
    parser.add_argument(
        "--conv_rank", "--new_conv_rank", type=positive, help="of convolutions larger than 1x1; unset: --rank"
    )
    parser.add_argument(
        "--into",
        "--sd_model",
        metavar="MODEL",
        help="merge into this checkpoint: single file or folder; without --dtype its weights keep their types",
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="the model that the LoRAs are for, where a kind of LoRA depends on it"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="LAYERS",
        help='take these layers alone, in the words of network_layers, several apart by commas ("OUT03-OUT05 attn2, te1"); '
        "given once, for every file, else once for each file; 'all' for every layer",
    )
    add_family(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Merge, and say what was kept."""
    arguments = parse(argv)
    from library.models.rewriting.stored_places import open_model
    from networks.files.changes import check_family, open_changes
    from networks.files.combine import ingredient

    loras, model = strengths(arguments), arguments.into or arguments.base
    family = open_model(model, "--into" if arguments.into else "--base")[1] if model else None
    files = [open_changes(path, arguments.family, family) for path, _ in loras]
    check_family(files, model, family)
    ingredients = [
        ingredient(file, strength, only)
        for file, (_, strength), only in zip(files, loras, layers_of_each(arguments.only, len(loras)), strict=True)
    ]
    if arguments.into is None:
        into_lora(arguments, ingredients)
    else:
        into_model(arguments, ingredients)


def strengths(arguments: argparse.Namespace) -> list[tuple[Path, float]]:
    """The files of the command line with their strengths.

    Raises:
        UserError: there are none, or not as many ratios as models.
    """
    from library.cli.with_loras import parse_lora

    if arguments.ratios and len(arguments.ratios) != len(arguments.models):
        raise UserError(f"--ratios has {len(arguments.ratios)} values for {len(arguments.models)} --models.")
    ratios = arguments.ratios or [1.0] * len(arguments.models)
    loras = [parse_lora(text) for text in arguments.loras]
    loras += [(Path(model), ratio) for model, ratio in zip(arguments.models, ratios, strict=True)]
    if not loras:
        raise UserError("nothing to merge: name one or more LoRA files, such as alexander.safetensors:0.8.")
    return loras


def layers_of_each(given: Sequence[str], files: int) -> list[list[str]]:
    """For each file the layers to take from it; none: every one.

    Raises:
        UserError: neither one --only nor one for each file.
    """
    if len(given) not in (0, 1, files):
        raise UserError(f"--only stands {len(given)} times for {files} files: give it once, or once for each file.")
    texts = [[text.strip() for text in only.split(",") if text.strip() not in ("", "all")] for only in given]
    return [[]] * files if not texts else texts * files if len(texts) == 1 else texts


def into_lora(arguments: argparse.Namespace, ingredients: Sequence[Ingredient]) -> None:
    """Write the sum as a LoRA.

    Raises:
        UserError: the files do not fit together.
    """
    from library.lora_files.file import save_lora
    from library.lora_files.low_rank.kept import KeptByBlock
    from library.lora_files.low_rank.resize import RankRule
    from library.lora_files.provenance import Shape, merged_metadata
    from library.models.rewriting.site_finder import SiteFinder
    from networks.files.combine import combined, highest_rank, keys_of

    check_out(arguments.out, [each.file.path for each in ingredients])
    if arguments.conv_rank and not arguments.rank:
        raise UserError("--conv_rank needs --rank: without it the ranks add up.")
    family = ingredients[0].file.family
    rule = RankRule(arguments.rank, arguments.conv_rank or arguments.rank) if arguments.rank else None
    alpha = float(arguments.rank or highest_rank(ingredients))
    dtype = stored_dtype(arguments.dtype, {dtype for each in ingredients for dtype in each.file.dtypes()})
    keys, kept, conv = keys_of(ingredients), KeptByBlock(family), 0
    tensors: dict[str, torch.Tensor] = {}
    for each in counted(combined(ingredients, SiteFinder(arguments.base, family), rule), len(keys), "merging"):
        tensors |= {f"{each.key}.{name}": tensor for name, tensor in each.factors.tensors(alpha, dtype).items()}
        kept.add(each.key, each.energy, each.kept, each.factors.rank, each.former)
        conv = max(conv, each.factors.rank if each.factors.is_spatial else 0)
    shape = Shape(str(int(alpha)), alpha, conv or None)
    metadata = merged_metadata(arguments.out, family, shape, sources(ingredients), datetime.now())
    save_lora(arguments.out, tensors, metadata)
    print(kept.table() if rule else f"exact: {len(keys)} layers, ranks up to {int(alpha)}")
    print(f"{arguments.out.as_posix()}: {described_size(arguments.out)}")


def into_model(arguments: argparse.Namespace, ingredients: Sequence[Ingredient]) -> None:
    """Write the checkpoint with the sum added to its weights.

    Raises:
        UserError: the LoRAs are not for this model.
    """
    import torch
    from tqdm import tqdm

    from library.lora_files.provenance import merge_note
    from library.models.rewriting.merge_into import Edit, write_changed, written_size
    from library.models.rewriting.stored_places import StoredPlace, open_model, stored_places
    from networks.files.combine import keys_of, summed_into

    if arguments.rank or arguments.base:
        raise UserError("--rank and --base are for a LoRA: with --into the whole change goes into the model.")
    if arguments.out.is_file():
        check_out(arguments.out, [each.file.path for each in ingredients])
    checkpoint, family = open_model(arguments.into, "--into")
    found, keys = stored_places(checkpoint, family), keys_of(ingredients)
    if unknown := [key for key in keys if key not in found]:
        raise UserError(
            f"the LoRAs are not for {arguments.into}: it has no {', '.join(unknown[:3])} ({len(unknown)} in all)."
        )

    def edit(place: StoredPlace) -> Edit:
        return lambda weight: summed_into(weight, place.place.key, ingredients, place.place.site)

    dtype = getattr(torch, DTYPES[arguments.dtype]) if arguments.dtype else None
    with tqdm(total=written_size(checkpoint, dtype), desc="merging", unit="B", unit_scale=True) as bar, torch.no_grad():
        left_out = write_changed(
            checkpoint,
            {found[key]: edit(found[key]) for key in keys},
            arguments.out,
            merge_note(sources(ingredients)),
            dtype,
            bar.update,
        )
    if left_out:
        print(harmless(f"left out, for they hold the former weights: {', '.join(left_out)}"))
    print(f"{arguments.out.as_posix()}: {len(keys)} weights changed")


def sources(ingredients: Sequence[Ingredient]) -> list[Source]:
    """For the metadata."""
    from library.lora_files.provenance import Source

    return [Source(each.file.path, each.strength, each.file.metadata) for each in ingredients]
