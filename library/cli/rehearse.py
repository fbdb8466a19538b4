"""Go through a training run in short, and tell whether it will get through.

    dojo rehearse my.toml
    dojo rehearse --config presets/character.toml --train_data_dir pictures/anna --price_per_hour 0.79

Takes the same options as train_network.py (`train_network.py --help` lists them). By the run's own code it checks the
configuration and the pictures, loads the model, encodes a few pictures, trains some steps of the largest batches, saves, samples
the largest picture, validates, and resumes from what it saved. It prints what each part took and what that comes to over the
whole run: hours, memory, disk. Nothing is left behind, except pictures and captions in the caches, which the run then finds.

Exit status 0: the run will get through; otherwise the status that it would end with (1: an error that was not foreseen, 2: something
to mend, 3: values that are not finite, 4: memory, 5: disk, 6: max_train_time is too short).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

from library.cli.arguments import command_parser, of_a_run, price


def parse(argv: Sequence[str]) -> tuple[float | None, list[str]]:
    """The price of an hour, and the options of the run; a file that comes first is its `--config`."""
    parser = command_parser("rehearse", __doc__)
    parser.allow_abbrev = False
    parser.usage = "dojo rehearse [CONFIG] [--price_per_hour PRICE] [options of train_network.py]"
    parser.add_argument(
        "--price_per_hour", type=price, metavar="PRICE", help="what the machine costs; the whole run's cost is told"
    )
    arguments, options = of_a_run(parser, argv)
    return arguments.price_per_hour, options


def main(argv: Sequence[str]) -> int:
    """Rehearse and print the verdict; returns the exit status."""
    started = time.perf_counter()
    price_per_hour, options = parse(argv)
    from library.config.load import load_config
    from library.core.errors import UserError
    from library.core.runtime import uncollected
    from library.core.terminal import harmless
    from library.training.processes.peers import ending_together

    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(
            "dojo rehearse goes through the run in one process: start it without a launcher. Times of a run on several GPUs are "
            "then too long, by about their number."
        )
    loaded = load_config(options)
    with uncollected():
        from library.rehearsal.rehearse import rehearse
    with ending_together() as join:
        verdict = rehearse(loaded, join, started, price_per_hour)
    print(f"\n{harmless(verdict.text())}")
    sys.stdout.flush()
    return verdict.status
