"""What several commands take on their command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo" / "model"


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose description keeps its lines."""
    return argparse.ArgumentParser(
        prog=f"dojo {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def dispatch(
    program: str, description: str | None, commands: Mapping[str, str], modules: str, argv: Sequence[str]
) -> int | None:
    """Run the command that `argv` begins with, by `main(argv)` of its module; returns its exit status.

    Args:
        program: what is typed before the command, such as "dojo lora".
        commands: name -> what it is for.
        modules: dotted name of the commands' modules up to the command itself, such as "library.cli.".
    """
    listed = "\n".join(f"  {name:14} {purpose}" for name, purpose in commands.items())
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"{description}\n\ncommands:\n{listed}\n\n`{program} COMMAND --help` tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(commands), metavar="COMMAND")
    chosen = parser.parse_args(argv[:1]).command
    module = import_module(modules + chosen.replace("-", "_"))
    status: int | None = module.main(argv[1:])
    return status


def of_a_run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The parser's own arguments, and the options of train_network.py; a file that comes first is the run's `--config`."""
    arguments, options = parser.parse_known_args(argv)
    if options and not options[0].startswith("-"):
        options.insert(0, "--config")
    return arguments, options


def price(text: str) -> float:
    """What an hour costs, for argparse."""
    number = float(text)
    if not number > 0 or math.isinf(number):
        raise argparse.ArgumentTypeError(f"{text} is not a price above 0")
    return number


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which LoRAs, how strong."""
    parser.add_argument(
        "--pretrained_model_name_or_path", default=str(DEMO_MODEL), help="base model; unset: the embedded demo model"
    )
    parser.add_argument("--vae", help="another VAE")
    parser.add_argument(
        "--allow_pickle", action="store_true", help="read .ckpt and .pt files, without running what is in them"
    )
    parser.add_argument("--tokenizer", help="CLIP tokenizer for single files")
    parser.add_argument("--clip_skip", type=int, choices=range(1, 13), metavar="1..12")
    parser.add_argument("--mixed_precision", choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument(
        "--lora",
        nargs="+",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA files, each with its strength (1 if left out)",
    )
