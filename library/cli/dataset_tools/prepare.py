"""Copy pictures as they are to be trained: upright, in sRGB, sized, cropped, some held out. The originals are never touched.

    dojo dataset prepare photos --out prepared --resolution 768
    dojo dataset prepare photos --out prepared --resolution 768 --fit bucket --validation_split 0.1 --sheet sheet.png
    dojo dataset prepare photos --out prepared --resolution 768 --fit square --focus top --trim_borders --dry_run

Then train with:  train_network.py --dataset_config prepared/dataset.toml ...

Pictures become only smaller, unless --upscale is given. All that an original says beside its pixels (place, camera, time) is left
behind. Captions are copied as UTF-8, and byte for byte where their encoding is a guess. Run again, it does only what has changed. Exit status 0: done, damaged pictures left out and
named; 2: something must be mended first, or with --strict, something was worth a warning.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from library.cli.arguments import command_parser
from library.core.errors import Exit, UserError

if TYPE_CHECKING:
    from library.data.preparing.outcome import Prepared, Request
    from library.data.preparing.settings import Settings


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    from library.data.preparing.settings import Fit, Focus, Format

    parser = command_parser("dataset prepare", __doc__)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="folder of originals, laid out as train_data_dir is"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the prepared pictures, not among the originals"
    )
    parser.add_argument("--recursive", action="store_true", help="look through folders of any depth, not only one")
    add_sizes(parser.add_argument_group("size and crop"), get_args(Fit), get_args(Focus))
    add_pixels(parser.add_argument_group("pixels"), get_args(Format))
    choice = parser.add_argument_group("which pictures")
    choice.add_argument("--min_side", type=whole, default=0, help="leave out pictures with a shorter side, in pixels")
    choice.add_argument("--skip_copies", action="store_true", help="of copies of one file use the first")
    choice.add_argument("--skip_near_copies", action="store_true", help="of pictures that look the same, too")
    choice.add_argument(
        "--validation_split", type=share, default=0.0, help="share that only validates; copies are on one side"
    )
    choice.add_argument("--validation_seed", type=int, default=0, help="which those are (default 0)")
    choice.add_argument("--caption_extension", help="ending of captions; unset: .caption and .txt")
    writing = parser.add_argument_group("writing and telling")
    writing.add_argument("--overwrite", action="store_true", help="replace files in --out that you edited or put there")
    writing.add_argument("--prune", action="store_true", help="remove what was made of originals that are gone")
    writing.add_argument("--dry_run", action="store_true", help="make everything, write nothing, and tell")
    writing.add_argument("--strict", action="store_true", help="end with status 2 where there is a warning")
    writing.add_argument("--json", type=Path, metavar="FILE", help="write everything of every picture as JSON")
    writing.add_argument("--report", type=Path, dest="json", help=argparse.SUPPRESS)  # its former name
    writing.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="pictures before and after, those cut most first"
    )
    return parser.parse_args(argv)


def add_sizes(group: argparse._ArgumentGroup, fits: Sequence[str], focuses: Sequence[str]) -> None:
    """How large, and what of it."""
    group.add_argument("--resolution", help="of the run: 768, or 768,512")
    group.add_argument(
        "--fit",
        choices=fits,
        default="area",
        help="area (default): as small as its bucket allows, nothing cut off; bucket: exactly its bucket's size, so that the "
        "trainer resizes nothing any more; square: exactly the resolution; none: as it is",
    )
    group.add_argument(
        "--focus",
        choices=focuses,
        default="centre",
        help="what stays where something is cut off; face: the one that names like anna_320_180_96_110.jpg tell of",
    )
    group.add_argument("--upscale", action="store_true", help="enlarge small pictures, as the trainer will otherwise")
    for key, meaning in (
        ("min_bucket_reso", "shortest side of a bucket"),
        ("max_bucket_reso", "longest side of a bucket"),
        ("bucket_reso_steps", "its sides are multiples of this"),
    ):
        group.add_argument(f"--{key}", type=int, help=f"{meaning}, as in the run; unset: the trainer's default")
    group.add_argument("--bucket_no_upscale", action="store_true", help="as in the run")
    group.add_argument("--trim_borders", action="store_true", help="cut off bars and frames of one colour")


def add_pixels(group: argparse._ArgumentGroup, formats: Sequence[str]) -> None:
    """How they are treated and written."""
    from library.data.pictures.images import FILTERS

    group.add_argument(
        "--format", choices=formats, default="png", help="png and webp lose nothing; jpg has quality 95, 4:4:4"
    )
    group.add_argument("--background_color", default="white", help="behind transparent pictures: a name, or #rrggbb")
    opacity = group.add_mutually_exclusive_group()
    opacity.add_argument("--keep_alpha", action="store_true", help="keep the transparency, for alpha_mask")
    opacity.add_argument("--alpha_to_mask", action="store_true", help="write it as masks, for conditioning_data_dir")
    group.add_argument(
        "--resize_interpolation",
        choices=list(FILTERS),
        help="unset: area for smaller, lanczos for larger, as the trainer",
    )


def main(argv: Sequence[str]) -> int:
    """Prepare, and tell what was done."""
    arguments = parse(argv)
    from library.core.terminal import harmless
    from library.data.checks.findings import report
    from library.data.pictures.images import silence_pillow_on_sizes
    from library.data.preparing.placing import check_apart
    from library.data.preparing.prepare import prepare
    from library.data.preparing.summary import table

    silence_pillow_on_sizes()
    request = request_of(arguments)
    check_apart(request.source, request.out, [], [arguments.json, arguments.sheet])
    try:
        prepared = prepare(request)
    except KeyboardInterrupt:
        if not request.dry_run:
            print("What was made so far is kept: the same command goes on from there.")
        raise
    if prepared.findings:
        print(harmless(report(prepared.findings)), end="\n\n")
    print(table(prepared, request))
    tell_files(arguments, prepared, request)
    if not prepared.used:
        raise UserError(
            f"{request.source}: every picture is left out, for the reasons above; there is nothing to train on."
        )
    warned = any(finding.severity == "warning" for finding in prepared.findings)
    return Exit.MISTAKE if warned and arguments.strict else Exit.COMPLETE


def request_of(arguments: argparse.Namespace) -> Request:
    """What is to be done.

    Raises:
        UserError: no resolution, or none that can be read.
    """
    from library.data.index.siblings import caption_endings
    from library.data.preparing.outcome import Request

    taken = (
        "recursive",
        "validation_split",
        "validation_seed",
        "skip_copies",
        "skip_near_copies",
        "prune",
        "overwrite",
        "dry_run",
    )
    return Request(
        arguments.source,
        arguments.out,
        settings_of(arguments),
        caption_endings=caption_endings(arguments.caption_extension),
        progress=True,
        **{name: getattr(arguments, name) for name in taken},
    )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """How pictures are made.

    Raises:
        UserError: no resolution, or none that can be read.
    """
    from library.config.schema.data import BucketConfig
    from library.config.schema.fields import parse_size
    from library.data.preparing.settings import Settings

    given = {key: getattr(arguments, key) for key in ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps")}
    buckets = {key: value for key, value in given.items() if value is not None}
    if arguments.resolution is not None:
        try:
            buckets["resolution"] = parse_size(arguments.resolution)
        except ValueError as error:
            raise UserError(f"--resolution {arguments.resolution}: expected {error}.") from error
    elif arguments.fit != "none":
        raise UserError(
            "give the --resolution of the run (512, 768, 1024, ...), or --fit none to leave the sizes as they are."
        )
    taken = (
        "fit",
        "focus",
        "upscale",
        "min_side",
        "trim_borders",
        "background_color",
        "resize_interpolation",
        "format",
    )
    return Settings(
        buckets=BucketConfig(
            enable_bucket=arguments.fit != "square", bucket_no_upscale=arguments.bucket_no_upscale, **buckets
        ),
        opacity="keep" if arguments.keep_alpha else "mask" if arguments.alpha_to_mask else "fill",
        **{name: getattr(arguments, name) for name in taken},
    )


def tell_files(arguments: argparse.Namespace, prepared: Prepared, request: Request) -> None:
    """Write the report and the sheet that are asked for, and say where everything is."""
    from library.core.files import write_atomically
    from library.core.terminal import harmless
    from library.data.preparing.dataset_file import NAME
    from library.data.preparing.sheet import before_and_after, caption, shown_on_sheet
    from library.data.preparing.summary import as_json
    from library.inference.sheet import contact_sheet

    if arguments.json is not None:
        text = json.dumps(as_json(prepared, request), ensure_ascii=False, indent=1)
        write_atomically(arguments.json, lambda path: path.write_text(text, encoding="utf-8", errors="replace"))
    if arguments.sheet is not None and (shown := shown_on_sheet(prepared)):
        pairs = before_and_after(shown, None if request.dry_run else request.out)
        sheet = contact_sheet(pairs, [caption(outcome) for outcome in shown], ["original", "prepared"])
        write_atomically(arguments.sheet, lambda path: sheet.save(path, "PNG"))
    if request.dry_run:
        print("\nNo picture was written (--dry_run).")
    elif prepared.used:
        masked = "" if request.settings.opacity == "fill" else " --masked_loss"
        file = shlex.quote((request.out / NAME).as_posix())
        print(harmless(f"\nTrain on them:  train_network.py --dataset_config {file}{masked} ..."))


def whole(text: str) -> int:
    """A whole number from 0, for argparse."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def share(text: str) -> float:
    """A number from 0 and below 1, for argparse."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return number
