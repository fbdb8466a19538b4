"""What the caches hold, whether all of it is whole, and removing what is no longer used.

    dojo cache                                      where they are, how much they hold, when they were last used
    dojo cache verify                               read and check everything; what is damaged is made anew by the next run
    dojo cache prune --unused_for 30d               remove what nobody has used for 30 days
    dojo cache prune --max_size 20GB --dry_run      say what would go for the rest to take no more than 20 GB

`prune` also puts small files together, and removes entries that nothing can find any more. All of it may be done while runs go on.
Deleting the whole folder is always safe: it is filled anew.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from library.cli.arguments import command_parser
from library.config.schema.fields import parse_duration
from library.core.disk import amount
from library.core.durations import duration
from library.core.terminal import harmless
from library.data.cache.contents import KINDS, Contents, contents, verify
from library.data.cache.keys import cache_folder
from library.data.cache.pruning import least_used, prune

OTHERS = {
    "manifest": "what was seen of pictures and captions",
    "hashes": "fingerprints of models",
    "pickles": "models read from pickles",
    "kernels": "compiled kernels",
    "paces": "what a step took",
}
"""What else is kept in the folder, and what it is."""


def main(argv: Sequence[str]) -> None:
    """Show, verify or prune."""
    arguments = parse(argv)
    folder = cache_folder(arguments.cache_dir)
    if arguments.action == "verify":
        read(folder)
    elif arguments.action == "prune":
        remove(folder, arguments.unused_for, arguments.max_size, arguments.dry_run)
    else:
        show(folder)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("cache", __doc__)
    parser.add_argument("action", nargs="?", choices=["show", "verify", "prune"], default="show")
    parser.add_argument("--cache_dir", help="folder of the caches, as in the config; unset: ~/.cache/lora-dojo")
    parser.add_argument(
        "--unused_for",
        type=told(parse_duration),
        metavar="TIME",
        help="prune what nobody has used for so long: 30d, 12h",
    )
    parser.add_argument(
        "--max_size",
        type=told(size),
        metavar="SIZE",
        help="prune what was used longest ago until no more is left: 20GB",
    )
    parser.add_argument("--dry_run", action="store_true", help="only say what prune would do")
    arguments = parser.parse_args(argv)
    if arguments.action != "prune" and (arguments.unused_for or arguments.max_size or arguments.dry_run):
        parser.error("--unused_for, --max_size and --dry_run are for prune")
    return arguments


def size(text: str) -> int:
    """Bytes in "20GB", "500 MB" or a number, in powers of ten."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|[kmgt]?b)", text.strip().lower())
    if found is None:
        raise ValueError('a size such as "20GB" or "500MB"')
    return round(float(found[1]) * {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}[found[2]])


def told(read: Callable[[str], float]) -> Callable[[str], float]:
    """The parser, for argparse: what it expects is said of a mistake."""

    def checked(text: str) -> float:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' is not {error}") from None

    return checked


def show(folder: Path) -> None:
    """Print what is where."""
    say(f"caches in {folder}")
    for kind in KINDS:
        there = contents(folder / kind)
        say(f"  {kind:9} {described(there)}")
        if there.former:
            say(f"{'':12}and entries of a former layout, which nothing reads: `dojo cache prune` removes them")
    for name, what in OTHERS.items():
        found = sum(map(size_of, files_of(folder, name)))
        if found:
            say(f"  {name:9} {amount(found)}: {what}; prune leaves it alone")
    say("Deleting the folder is always safe: it is filled anew.")


def described(there: Contents) -> str:
    """One kind of cache in a line."""
    if not there.shards:
        return "nothing"
    used = [time.time() - each.used for each in there.shards]
    useless = sum(each.useless for each in there.shards)
    entries, held = sum(each.entries for each in there.shards), sum(each.size for each in there.shards)
    return ", ".join(
        [
            f"{entries} {'entries' if entries != 1 else 'entry'}",
            f"{amount(held)} in {len(used)} shard{'s' * (len(used) != 1)}",
            f"last used {duration(max(0, min(used)))} ago",
            *([f"the longest unused shard {duration(max(used))} ago"] if len(used) > 1 else []),
            *([f"{amount(useless)} superseded or cut off"] if useless else []),
        ]
    )


def files_of(folder: Path, name: str) -> list[Path]:
    """The files of something else that is kept there."""
    whole = folder / name
    return [path for path in whole.rglob("*") if path.is_file()] if whole.is_dir() else list(folder.glob(f"{name}.*"))


def size_of(file: Path) -> int:
    """Its bytes; none where it has gone meanwhile, as a journal of the manifest's does."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def read(folder: Path) -> None:
    """Check everything."""
    for kind in KINDS:
        found = verify(folder / kind, progress=True)
        say(f"{kind}: {found.entries} entries, {amount(found.bytes)} read")
        for path in sorted(set(found.damaged)):
            say(f"  {path}: {found.damaged.count(path)} damaged; the next run that needs them makes them anew")


def remove(folder: Path, unused_for: float | None, max_size: int | None, dry_run: bool) -> None:
    """Prune."""
    shards = [each for kind in KINDS for each in contents(folder / kind).shards]
    first = [] if max_size is None else least_used(shards, max_size)
    freed = 0
    for kind in KINDS:
        for each in prune(folder / kind, unused_for=unused_for, removed_first=first, dry_run=dry_run, progress=True):
            freed += each.size
            say(f"{'would be ' * dry_run}{each.done}: {each.what} ({amount(each.size)})")
    say(f"{amount(freed)} {'would be free' if dry_run else 'are free now'}")


def say(text: str) -> None:
    """Print what may name files of strangers."""
    print(harmless(text))
