"""The `dojo` command line: what is done beside training. Training itself is `train_network.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from library.cli.arguments import dispatch
from library.core.runtime import run_command

COMMANDS = {
    "check": "look through a config's pictures and captions before training",
    "dataset": "tools on training data: caption, prepare, generate",
    "cache": "what the caches hold, and removing what is no longer used",
    "rehearse": "go through a training run in short: will it get through, how long, how much memory and disk",
    "sample": "generate pictures with one or several LoRAs at chosen strengths",
    "measure": "measure what a LoRA learned, against held-out pictures",
    "lora": "tools on LoRA files: inspect, merge, resize, extract, convert, rename-trigger",
    "from-sd-scripts": "read a config or command line of sd-scripts, say what it does, and write it as a preset",
    "presets": "list the presets that come with LoRA Dojo",
    "random-model": "make a model with random weights, for tests and benchmarks",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; each is a module of this package with `main(argv)`."""
    words = sys.argv[1:] if argv is None else argv
    return run_command(lambda: dispatch("dojo", __doc__, COMMANDS, "library.cli.", words))


if __name__ == "__main__":
    sys.exit(main())
