"""Make a LoRA of what a tuned checkpoint differs in from the one that it was tuned from.

    dojo lora extract --base model.safetensors --tuned tuned.safetensors --out tuned_lora.safetensors --rank 32
    dojo lora extract --base model --tuned tuned.safetensors --out tuned_lora.safetensors --rank 64 --conv_rank 32

Each layer's difference is cut off after its first singular values. Single files and folders may be mixed. sd-scripts' words for
the options are understood as well: --model_org, --model_tuned, --dim, --conv_dim, --save_to.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from library.cli.arguments import command_parser, positive
from library.cli.lora_tools.output import add_out, check_out, counted, described_size, stored_dtype
from library.core.errors import UserError
from library.core.terminal import harmless

if TYPE_CHECKING:
    import torch

    from library.lora_files.low_rank.kept import KeptByBlock
    from library.models.checkpoint import Checkpoint
    from library.models.rewriting.differences import Pair


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora extract", __doc__)
    parser.add_argument(
        "--base", "--model_org", required=True, metavar="MODEL", help="single file, folder or name on the hub"
    )
    parser.add_argument("--tuned", "--model_tuned", required=True, metavar="MODEL", help="the same, tuned")
    add_out(parser)
    parser.add_argument("--rank", "--dim", type=positive, required=True, help="of the LoRA")
    parser.add_argument(
        "--conv_rank", "--conv_dim", type=positive, help="of convolutions larger than 1x1; unset: resnets are left out"
    )
    parser.add_argument(
        "--min_diff",
        type=float,
        default=0.01,
        help="leave out a text encoder none of whose values differs by more (default 0.01; 0: leave out equal ones alone)",
    )
    parser.add_argument(
        "--clamp_quantile",
        type=quantile,
        default=1.0,
        help="limit the LoRA's values to this quantile of them, as sd-scripts does at 0.99 (default 1: no limit)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Extract, and say what was kept and what a LoRA cannot hold."""
    arguments = parse(argv)
    from library.lora_files.file import save_lora
    from library.lora_files.low_rank.kept import KeptByBlock
    from library.lora_files.provenance import Shape, fresh_metadata
    from library.models.description import model_entries
    from library.models.rewriting.differences import paired
    from library.models.rewriting.stored_places import open_model

    check_out(arguments.out, [Path(arguments.base), Path(arguments.tuned)])
    base, family = open_model(arguments.base, "--base")
    tuned, tuned_family = open_model(arguments.tuned, "--tuned")
    if family != tuned_family:
        raise UserError(
            f"--base is a model of the family {family}, --tuned of {tuned_family}: no LoRA leads from one to the other."
        )
    pair, kept = paired(base, tuned, family), KeptByBlock(family)
    tensors = extracted(arguments, pair, kept)
    shape = Shape(str(arguments.rank), float(arguments.rank), arguments.conv_rank)
    entries = model_entries(arguments.base, family, "v" if tuned.prediction == "v" else "eps")
    metadata = fresh_metadata(arguments.out, family, shape, entries, datetime.now())
    note = f"difference of {Path(arguments.tuned).name} from {Path(arguments.base).name}"
    save_lora(arguments.out, tensors, {**metadata, "ss_training_comment": note})
    print(kept.table())
    tell_rest(arguments, base, tuned, pair)
    print(f"{arguments.out.as_posix()}: {described_size(arguments.out)}")


def extracted(arguments: argparse.Namespace, pair: Pair, kept: KeptByBlock) -> dict[str, torch.Tensor]:
    """The LoRA's tensors; fills `kept`.

    Raises:
        UserError: nothing differs.
    """
    from library.lora_files.low_rank.extract import clamped, decomposed_difference
    from library.lora_files.low_rank.resize import RankRule

    hosts = differing_hosts(arguments, pair)
    keys = [key for key in pair.keys(conv=False) if pair.base[key].place.host in hosts]
    keys += pair.keys(conv=True) if arguments.conv_rank else []
    rule = RankRule(arguments.rank, arguments.conv_rank or arguments.rank)
    dtype = stored_dtype(arguments.dtype, {pair.tuned[key].dtype for key in keys})
    tensors: dict[str, torch.Tensor] = {}
    for key in counted(keys, len(keys), "extracting"):
        difference = pair.difference(key)
        if not difference.isfinite().all():
            raise UserError(f"{key}: the models differ by values that are not finite. One of them is damaged.")
        if difference.any():
            found = decomposed_difference(difference, rule.highest(tuple(difference.shape)))
            rank = rule.rank(found.values_R, found.weight_shape)
            factors = clamped(found.truncated(rank), arguments.clamp_quantile)
            kept.add(key, found.energy, found.kept(rank), rank)
            tensors |= {f"{key}.{name}": tensor for name, tensor in factors.tensors(arguments.rank, dtype).items()}
    if not tensors:
        raise UserError("the two models do not differ in any layer that a LoRA acts on.")
    return tensors


def differing_hosts(arguments: argparse.Namespace, pair: Pair) -> list[str]:
    """The UNet, and the text encoders that differ by more than --min_diff; says which do not."""
    hosts = ["unet"]
    for host in sorted({found.place.host for found in pair.base.values()} - {"unet"}):
        largest = pair.largest(host)
        if largest > arguments.min_diff:
            hosts.append(host)
        elif largest > 0:
            print(f"{host} is left out: its values differ by {largest:.2g} at most (--min_diff {arguments.min_diff:g})")
    return hosts


def tell_rest(arguments: argparse.Namespace, base: Checkpoint, tuned: Checkpoint, pair: Pair) -> None:
    """Say what differs and is not in the LoRA."""
    from library.models.rewriting.differences import differing_others

    if not arguments.conv_rank and (conv := [key for key in pair.keys(conv=True) if pair.difference(key).any()]):
        print(f"left out: {len(conv)} layers of resnets and samplers differ too; --conv_rank takes them")
    if others := differing_others(base, tuned, pair):
        named = harmless(", ".join(others[:3]))
        print(f"left out: {len(others)} weights that a LoRA does not hold differ too, such as {named}")


def quantile(text: str) -> float:
    """A number above 0.5 and at most 1, for argparse."""
    number = float(text)
    if not 0.5 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0.5 and at most 1")
    return number
