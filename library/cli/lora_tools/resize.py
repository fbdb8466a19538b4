"""Make a LoRA smaller: of lower rank, and doing nearly the same.

    dojo lora resize alexander.safetensors small.safetensors --rank 16
    dojo lora resize alexander.safetensors small.safetensors --frobenius 0.95
    dojo lora resize alexander.safetensors small.safetensors --ratio 10 --rank 32

Each layer's change is cut off after the first singular values, which is the nearest change of that rank. --rank alone gives every
layer that rank; with one of the rules each layer gets the rank that it needs, and --rank is the highest. The words of sd-scripts'
resize_lora.py are understood as well: --model, --save_to, --new_rank, --new_conv_rank, --dynamic_method, --dynamic_param.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from library.cli.arguments import command_parser, positive
from library.cli.lora_tools.output import add_dtype, add_family, check_out, counted, described_size, stored_dtype
from library.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from library.lora_files.low_rank.resize import Method, RankRule
    from networks.files.combine import Ingredient

METHODS: dict[str, Method] = {"sv_ratio": "ratio", "sv_cumulative": "cumulative", "sv_fro": "frobenius"}
"""sd-scripts' words for the rules."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora resize", __doc__)
    parser.add_argument("lora", nargs="?", type=Path, metavar="IN", help="a LoRA file")
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="the new file")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--save_to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", "--new_rank", type=positive, help="rank, or highest rank")
    parser.add_argument(
        "--conv_rank", "--new_conv_rank", type=positive, help="the same of convolutions larger than 1x1; unset: --rank"
    )
    rules = parser.add_mutually_exclusive_group()
    rules.add_argument(
        "--frobenius", type=share, metavar="0..1", help="keep this share of each layer's Frobenius norm (sv_fro)"
    )
    rules.add_argument(
        "--energy", type=share, metavar="0..1", help="keep this share of the sum of squared singular values"
    )
    rules.add_argument(
        "--cumulative", type=share, metavar="0..1", help="keep this share of the sum of singular values (sv_cumulative)"
    )
    rules.add_argument(
        "--ratio", type=above_one, help="keep singular values above the largest divided by this (sv_ratio)"
    )
    rules.add_argument("--dynamic_method", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--dynamic_param", type=float, help=argparse.SUPPRESS)
    add_dtype(parser)
    add_family(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Resize, and say what was kept."""
    arguments = parse(argv)
    from networks.files.changes import open_changes
    from networks.files.combine import ingredient

    source, out = arguments.lora or arguments.model, arguments.out or arguments.save_to
    if source is None or out is None:
        raise UserError("name the LoRA and the new file: dojo lora resize IN OUT --rank 16.")
    check_out(out, [source])
    method, parameter = rule_of(arguments)
    file = open_changes(source, arguments.family)
    if file.algorithm is not None:
        raise UserError(
            f"{source.as_posix()} is no LoRA of two factors, whose rank could be changed. `dojo lora merge FILE --rank N` makes "
            "a LoRA of it."
        )
    resize(ingredient(file, 1.0, ()), out, arguments, method, parameter)


def resize(
    whole: Ingredient, out: Path, arguments: argparse.Namespace, method: Method | None, parameter: float
) -> None:
    """Write the smaller LoRA.

    Raises:
        UserError: the file is damaged, or `out` cannot be written.
    """
    from library.lora_files.essentials import with_essentials
    from library.lora_files.file import save_lora
    from library.lora_files.low_rank.kept import KeptByBlock, spread
    from library.lora_files.provenance import Shape, resized_metadata
    from networks.files.combine import combined, highest_rank

    file = whole.file
    former = highest_rank([whole])
    rule = rank_rule(arguments, method, parameter, former)
    dtype = stored_dtype(arguments.dtype, file.dtypes())
    kept, alpha = KeptByBlock(file.family), float(rule.linear)
    tensors: dict[str, torch.Tensor] = {}
    for each in counted(combined([whole], _no_site, rule), len(file.by_site), "resizing"):
        tensors |= {f"{each.key}.{name}": tensor for name, tensor in each.factors.tensors(alpha, dtype).items()}
        kept.add(each.key, each.energy, each.kept, each.factors.rank, each.former)
    conv = rule.conv if any(tensor.dim() == 4 and tensor.shape[-1] > 1 for tensor in tensors.values()) else None
    shape = Shape("Dynamic" if method else str(rule.linear), alpha, conv)
    how = f"Dynamic resize with {method}: {parameter:g}" if method else f"dimension is resized to {rule.linear}"
    metadata = resized_metadata(file.metadata, shape, how, str(former))
    save_lora(out, tensors, with_essentials(metadata, tensors, file.family))
    print(kept.table())
    print(
        f"{out.as_posix()}: rank {spread(kept.total.former)} -> {spread(kept.total.ranks)}, {described_size(file.path)} -> "
        f"{described_size(out)}"
    )


def rule_of(arguments: argparse.Namespace) -> tuple[Method | None, float]:
    """The rule that the command line asks for, with its number.

    Raises:
        UserError: half a rule, or neither rule nor rank.
    """
    given = {name: getattr(arguments, name) for name in ("frobenius", "energy", "cumulative", "ratio")}
    asked: dict[Method, float] = {name: value for name, value in given.items() if value is not None}  # type: ignore[misc]
    if (arguments.dynamic_method is None) != (arguments.dynamic_param is None):
        raise UserError("--dynamic_method and --dynamic_param belong together.")
    if arguments.dynamic_method is not None:
        asked[METHODS[arguments.dynamic_method]] = arguments.dynamic_param
    if not asked and arguments.rank is None:
        raise UserError("say how small: --rank 16, --frobenius 0.95, --energy 0.9, --cumulative 0.8 or --ratio 10.")
    method, parameter = next(iter(asked.items()), (None, 0.0))
    if method is not None and not (parameter > 1 if method == "ratio" else 0 < parameter <= 1):
        raise UserError(f"--dynamic_param {parameter:g}: a ratio is above 1, a share above 0 and at most 1.")
    return method, parameter


def rank_rule(arguments: argparse.Namespace, method: Method | None, parameter: float, former: int) -> RankRule:
    """With the highest rank of the file where none is given, or a higher one."""
    from library.lora_files.low_rank.resize import RankRule

    linear = min(arguments.rank or former, former)
    return RankRule(linear, min(arguments.conv_rank or linear, former), method, parameter)


def share(text: str) -> float:
    """A number above 0 and at most 1, for argparse."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


def above_one(text: str) -> float:
    """A number above 1, for argparse."""
    number = float(text)
    if not number > 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 1")
    return number


def _no_site(key: str) -> NoReturn:
    raise AssertionError(f"{key} is a plain LoRA")
