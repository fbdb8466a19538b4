"""The `dojo` command line: what is done beside training. Training itself is `train_network.py`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from library.core.runtime import run_command

COMMANDS = {
    "check": "look through a config's pictures and captions before training",
    "sample": "generate pictures with one or several LoRAs at chosen strengths",
    "measure": "measure what a LoRA learned, against held-out pictures",
    "presets": "list the presets that come with LoRA Dojo",
    "random-model": "make a model with random weights, for tests and benchmarks",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; each is a module of this package with `add_arguments(parser)` and `run(arguments)`."""
    return run_command(lambda: _dispatch(sys.argv[1:] if argv is None else argv))


def _dispatch(argv: list[str]) -> int | None:
    parser = argparse.ArgumentParser(prog="dojo", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose, add_help=False)
    known, rest = parser.parse_known_args(argv)
    module = import_module(f"library.cli.{known.command.replace('-', '_')}")
    own = argparse.ArgumentParser(
        prog=f"dojo {known.command}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(own)
    return module.run(own.parse_args(rest))


if __name__ == "__main__":
    sys.exit(main())
