"""The `dojo` command line: what is done beside training. Training itself is `train_network.py`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from library.core.runtime import run_command

COMMANDS = {
    "check": "look through a config's pictures and captions before training",
    "rehearse": "go through a training run in short: will it get through, how long, how much memory and disk",
    "sample": "generate pictures with one or several LoRAs at chosen strengths",
    "measure": "measure what a LoRA learned, against held-out pictures",
    "presets": "list the presets that come with LoRA Dojo",
    "random-model": "make a model with random weights, for tests and benchmarks",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; each is a module of this package with `main(argv)`."""
    return run_command(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def _dispatch(argv: list[str]) -> int | None:
    listed = "\n".join(f"  {name:14} {purpose}" for name, purpose in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dojo",
        description=f"{__doc__}\n\ncommands:\n{listed}\n\n`dojo COMMAND --help` tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    chosen = parser.parse_args(argv[:1]).command
    module = import_module(f"library.cli.{chosen.replace('-', '_')}")
    return module.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
