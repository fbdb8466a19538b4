"""What the caches hold, whether all of it is whole, and removing what is no longer used.

    dojo cache                                      where they are, how much they hold, when they were last used
    dojo cache verify                               read and check everything; what is damaged is made anew by the next run
    dojo cache prune --unused_for 30d               remove what nobody has used for 30 days
    dojo cache prune --max_size 20GB --dry_run      say what would go for the rest to take no more than 20 GB

`verify` ends with status 2 where it found damage. `prune` also puts small files together, removes entries that nothing can find any
more, and drops what is noted of pictures whose folders are gone. All of it may be done while runs go on.
Deleting the whole folder is always safe: it is filled anew.
"""

from __future__ import annotations

import argparse
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from library.cli.arguments import command_parser
from library.config.schema.fields import parse_duration
from library.core.disk import amount
from library.core.durations import duration
from library.core.errors import Exit, UserError
from library.core.terminal import harmless
from library.core.wording import how_many
from library.data.cache.contents import KINDS, Contents, contents, verify
from library.data.cache.keys import cache_folder, manifest_file
from library.data.cache.pruning import least_used, prune
from library.data.index.manifest import open_manifest

OTHERS = {
    "manifest": "what was seen of pictures and captions",
    "hashes": "fingerprints of models",
    "pickles": "models read from pickles",
    "kernels": "compiled kernels",
    "paces": "what a step took",
}
"""What else is kept in the folder, and what it is."""


def main(argv: Sequence[str]) -> int:
    """Show, verify or prune; `Exit.MISTAKE` where damage was found."""
    arguments = parse(argv)
    folder = cache_folder(arguments.cache_dir)
    if not folder.is_dir():
        return tell_of_no_folder(folder, arguments.action)
    if arguments.action == "verify":
        return verify_caches(folder)
    if arguments.action == "prune":
        prune_caches(folder, arguments.unused_for, arguments.max_size, arguments.dry_run)
    else:
        show_caches(folder)
    return Exit.COMPLETE


def tell_of_no_folder(folder: Path, action: str) -> Exit:
    """Say that there is no such folder, which is a mistake of who wants something done to it."""
    text = f"there is no folder {folder}: nothing has been cached there. --cache_dir names another one."
    if action != "show":
        raise UserError(text)
    print_harmless(text)
    return Exit.COMPLETE


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = command_parser("cache", __doc__)
    parser.add_argument("action", nargs="?", choices=["show", "verify", "prune"], default="show")
    parser.add_argument("--cache_dir", help="folder of the caches, as in the config; unset: ~/.cache/lora-dojo")
    parser.add_argument(
        "--unused_for",
        type=argument(unused_time),
        metavar="TIME",
        help="prune what nobody has used for so long: 30d, 12h",
    )
    parser.add_argument(
        "--max_size",
        type=argument(size),
        metavar="SIZE",
        help="prune what was used longest ago until no more is left: 20GB",
    )
    parser.add_argument("--dry_run", action="store_true", help="only say what prune would do")
    arguments = parser.parse_args(argv)
    if arguments.action != "prune" and (arguments.unused_for or arguments.max_size or arguments.dry_run):
        parser.error("--unused_for, --max_size and --dry_run are for prune")
    return arguments


def unused_time(text: str) -> float:
    """Seconds in "30d" or "12h"; a bare number, which elsewhere means seconds, would empty the caches of who means days."""
    if re.fullmatch(r"\d+(\.\d+)?", number := text.replace(" ", "")):
        raise ValueError(f'a time: {number} of what? "{number}d" is days, "{number}h" hours')
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError('a time such as "30d", "12h" or "1d12h"') from None


def size(text: str) -> int:
    """Bytes in "20GB", "500 MB" or a number, in powers of ten."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|[kmgt]?b)", text.strip().lower())
    if found is None:
        raise ValueError('a size such as "20GB" or "500MB"')
    return round(float(found[1]) * {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}[found[2]])


def argument(parse_text: Callable[[str], float]) -> Callable[[str], float]:
    """The parser, for argparse: what it expects is said of a mistake."""

    def checked(text: str) -> float:
        try:
            return parse_text(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{text}' is not {error}") from None

    return checked


def show_caches(folder: Path) -> None:
    """Print what is where."""
    print_harmless(f"caches in {folder}")
    for kind in KINDS:
        there = contents(folder / kind)
        print_harmless(f"  {kind:9} {described(there)}")
        if there.former:
            print_harmless(
                f"{'':12}and entries of a former layout, which nothing reads: `dojo cache prune` removes them"
            )
    for name, what in OTHERS.items():
        found = sum(map(size_of, files_of(folder, name)))
        if found:
            kept = (
                "prune drops what it notes of folders that are gone" if name == "manifest" else "prune leaves it alone"
            )
            print_harmless(f"  {name:9} {amount(found)}: {what}; {kept}")
    print_harmless("Deleting the folder is always safe: it is filled anew.")


def described(there: Contents) -> str:
    """One kind of cache in a line."""
    if not there.shards:
        return "nothing"
    used = [time.time() - each.used for each in there.shards]
    useless = sum(each.useless for each in there.shards)
    entries, held = sum(each.entries for each in there.shards), sum(each.size for each in there.shards)
    return ", ".join(
        [
            how_many(entries, "entry", "entries"),
            f"{amount(held)} in {how_many(len(used), 'shard')}",
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


def verify_caches(folder: Path) -> Exit:
    """Check everything."""
    damage = struck_out = False
    for kind in KINDS:
        found = verify(folder / kind, progress=True)
        damage |= bool(found)
        struck_out |= bool(found.damaged or found.indexes)
        print_harmless(f"{kind}: {how_many(found.entries, 'entry', 'entries')}, {amount(found.bytes)} read")
        for path, (lost, mended) in sorted(found.indexes.items()):
            what = f"{how_many(lost, 'damaged row')}"
            if mended is None:
                print_harmless(
                    f"  {path}: {what}, left as it is since a run adds to it or it is for reading only; verify again later"
                )
            else:
                print_harmless(
                    f"  {path}: {what} struck out, {how_many(mended.found_again, 'entry', 'entries')} found again in the data"
                )
        for path in sorted(set(found.damaged)):
            print_harmless(
                f"  {path}: {how_many(found.damaged.count(path), 'damaged entry', 'damaged entries')} struck out"
            )
        for path in sorted(set(found.left)):
            count = how_many(found.left.count(path), "damaged entry", "damaged entries")
            print_harmless(
                f"  {path}: {count}, which only its owner may strike out; a run that meets one makes it anew for itself"
            )
    if struck_out:
        print_harmless(
            "What was struck out and not found again is made anew by the next run that needs it. Nothing is left for you to do."
        )
    return Exit.MISTAKE if damage else Exit.COMPLETE


def prune_caches(folder: Path, unused_for: float | None, max_size: int | None, dry_run: bool) -> None:
    """Prune."""
    shards = [each for kind in KINDS for each in contents(folder / kind).shards]
    first = [] if max_size is None else least_used(shards, max_size)
    freed = 0
    for kind in KINDS:
        for each in prune(folder / kind, unused_for=unused_for, removed_first=first, dry_run=dry_run, progress=True):
            freed += each.size
            print_harmless(f"{'would be ' * dry_run}{each.done}: {each.what} ({amount(each.size)})")
    freed += forgotten(manifest_file(str(folder)), dry_run)
    print_harmless(f"{amount(freed)} {'would be freed' if dry_run else 'freed'}")
    if unused_for is None and max_size is None:
        print_harmless("What may still be used was kept: --unused_for 30d or --max_size 20GB removes more.")


def forgotten(manifest: Path, dry_run: bool) -> int:
    """Drop from the manifest what it notes of folders that are gone; the bytes that this frees."""
    if not manifest.is_file():
        return 0
    before = size_of(manifest)
    try:
        with open_manifest(manifest) as noted:
            gone = [folder for folder in noted.folders() if not folder.is_dir()]
            if not gone:
                return 0
            files = 0 if dry_run else noted.forget(gone)
    except sqlite3.Error as error:
        raise UserError(
            f"{manifest} cannot be pruned: {error}. Try again when no run looks at its pictures."
        ) from error
    for folder in gone:
        print_harmless(f"{'would be ' * dry_run}forgotten: what was seen in {folder}, which is gone")
    if dry_run:
        return 0
    freed = max(0, before - size_of(manifest))
    print_harmless(f"the manifest has {how_many(files, 'row')} less ({amount(freed)})")
    return freed


def print_harmless(text: str) -> None:
    """Print what may name files of strangers."""
    print(harmless(text))
