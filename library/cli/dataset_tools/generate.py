"""Make training pictures and captions of a character with the base model, from a sheet that describes them.

    dojo dataset generate --character alexander --count 25
    dojo dataset generate --character demarcus --count 25 --dry_run             prompts and captions, without a model
    dojo dataset generate --character anna.toml --count 40 --pretrained_model_name_or_path model.safetensors
    dojo dataset generate --character anna.toml --lora style.safetensors:0.6 --out training_data/anna_ink

    dojo dataset generate --weed training_data/alexander 3 7-9                  pictures that are no good, by their numbers
    dojo dataset generate --weed training_data/alexander 3 7-9 --refill         and others in their place
    dojo dataset generate --character alexander --reroll 3 7-9                  the same in one word

Without --pretrained_model_name_or_path the embedded demo model is used. The folder goes to the trainer as it is:

    accelerate launch train_network.py --config presets/character.toml --train_data_dir training_data/anna --trigger_word anna

Look at FOLDER/@review/sheet.png first. A run that was interrupted goes on when it is started again: what is there is kept.
docs/generating.md tells what a sheet holds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.cli.arguments import DEMO_MODEL, add_model_arguments, command_parser, positive
from library.core.errors import UserError, did_you_mean
from library.core.terminal import harmless
from library.core.wording import how_many
from library.data.captions.statistics import CHUNK
from library.generation.folder import folder_of, numbers_in, open_folder
from library.generation.plan import coverage, plan
from library.generation.read_sheet import find_sheet, read_sheet, sheet_of, shipped_characters
from library.generation.record import NAME, Entry, Record, read_record
from library.generation.sheet import CharacterSheet
from library.generation.table import SAMPLERS

if TYPE_CHECKING:
    from library.generation.make import Work

COUNT = 25

SHEET_OPTIONS = ("steps", "scale", "sampler", "width", "height")
"""Options that stand for the sheet's keys of the same name; --seed stands for `seeds`."""

MODEL_OPTIONS = (
    "pretrained_model_name_or_path", "vae", "tokenizer", "clip_skip", "mixed_precision", "allow_pickle", "lora",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command_parser("dataset generate", __doc__)
    made.add_argument(
        "--character", metavar="NAME|FILE", help=f"{', '.join(shipped_characters())}, or a sheet of yours"
    )
    made.add_argument("--count", type=positive, help=f"how many pictures there are to be; unset: {COUNT}")
    made.add_argument("--out", type=Path, help="folder for the pictures; unset: training_data/NAME")
    made.add_argument("--dry_run", action="store_true", help="print prompts and captions, and make nothing")
    made.add_argument("--overwrite", action="store_true", help="make anew what was made with other settings")
    made.add_argument("--reroll", nargs="+", metavar="NUMBER", help="make these anew from other seeds, such as 3 7-9")
    made.add_argument(
        "--weed", nargs="+", metavar="FOLDER NUMBER", help="move these pictures of a folder to where no trainer looks"
    )
    made.add_argument("--refill", action="store_true", help="make others in place of all that were weeded out")
    made.add_argument("--seed", type=int, help="in place of the sheet's seeds")
    made.add_argument("--steps", type=int, help="in place of the sheet's")
    made.add_argument("--scale", type=float, help="in place of the sheet's; classifier-free guidance")
    made.add_argument("--sampler", metavar="NAME", help=f"in place of the sheet's: {', '.join(SAMPLERS)}")
    made.add_argument("--width", type=int, help="in place of the sheet's")
    made.add_argument("--height", type=int, help="in place of the sheet's")
    made.add_argument(
        "--batch_size",
        type=positive,
        default=1,
        help="pictures painted at once; above 1 their last bits may hang on which are painted together",
    )
    add_model_arguments(made)
    return made


def main(argv: Sequence[str]) -> None:
    """Make, weed, or only print what would be made."""
    arguments = parser().parse_args(argv)
    _check(arguments)
    record, numbers = None, numbers_in(arguments.reroll or [], "--reroll")
    if arguments.weed:
        root = Path(arguments.weed[0])
        record = _weed(root, numbers_in(arguments.weed[1:], "--weed"), arguments.refill)
        if not arguments.refill:
            return
        sheet = sheet_of({**record.sheet, **_changes(arguments)}, str(root / NAME))
        _recall(arguments, record)
    else:
        sheet = read_sheet(find_sheet(arguments.character), _changes(arguments))
        root = arguments.out or Path("training_data") / sheet.name
    _warn_of_long_prompts(sheet, arguments.count or COUNT)
    if arguments.dry_run:
        print(harmless(_listed(sheet, arguments.count or COUNT)))
        return
    record = record or open_folder(root, sheet.name, sheet.folder_name)
    again = _again(root, record, numbers, arguments)
    work, made = _make(root, sheet, record, again, arguments)
    _tell(work, made, arguments)


def _check(arguments: argparse.Namespace) -> None:
    """See that the options go together.

    Raises:
        UserError: options that do not go together.
    """
    default = parser()
    given = [name for name, value in vars(arguments).items() if value != default.get_default(name)]
    if not arguments.weed and not arguments.character:
        raise UserError(
            f"nothing to generate: name a --character ({', '.join(shipped_characters())}, or a sheet of yours), or a folder "
            "to --weed."
        )
    if arguments.weed:
        goes_with = {"weed", "refill", *(("count", "batch_size", "overwrite") if arguments.refill else ())}
        goes_with |= {*SHEET_OPTIONS, *MODEL_OPTIONS, "seed"} if arguments.refill else set()
        strangers = [f"--{name}" for name in given if name not in goes_with]
        if strangers:
            hint = "" if arguments.refill else " They are for making pictures: add --refill, or leave them out."
            raise UserError(f"--weed does not go with {', '.join(strangers)}.{hint}")
    if arguments.dry_run and (arguments.reroll or arguments.refill or arguments.overwrite):
        raise UserError("--dry_run prints what a new folder would hold: leave out --reroll, --refill and --overwrite.")


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says in place of the sheet."""
    given = {key: getattr(arguments, key) for key in SHEET_OPTIONS if getattr(arguments, key) is not None}
    return given if arguments.seed is None else {**given, "seeds": arguments.seed}


def _recall(arguments: argparse.Namespace, record: Record) -> None:
    """Take what the command line leaves open of the model from the note in the folder."""
    default = parser()
    for name, value in record.model["options"].items():
        if name in MODEL_OPTIONS and getattr(arguments, name) == default.get_default(name):
            setattr(arguments, name, value)
    arguments.count = arguments.count or max(record.entries, default=COUNT)


def _weed(root: Path, numbers: Sequence[int], refill: bool) -> Record:
    """Move pictures out of the way, and make the contact sheet anew."""
    from library.generation.review import write_review

    record = read_record(root)
    if record is None:
        raise UserError(f"--weed {root}: there is no {NAME}, so this is no folder of generated pictures.")
    if not numbers and not refill:
        raise UserError(
            f"--weed {root}: say which pictures, by their numbers on the contact sheet: --weed {root} 3 7-9."
        )
    if unknown := [number for number in numbers if number not in record.entries]:
        raise UserError(f"--weed {root}: there is no picture {unknown[0]}; the last one is {max(record.entries)}.")
    folder = folder_of(root, record)
    there = [record.entries[number] for number in numbers if folder.state(record.entries[number]) == "made"]
    for entry in there:
        folder.reject(entry)
    write_review(folder, list(record.entries.values()))
    left = sum(folder.state(entry) == "made" for entry in record.entries.values())
    absent = len(numbers) - len(there)
    before = f" ({how_many(absent, 'was', 'were')} not there any more)" if absent else ""
    if numbers:
        print(
            f"{how_many(len(there), 'picture')} weeded out{before}, {left} left; the rejected ones are in {folder.review / 'rejected'}"
        )
    return record


def _again(root: Path, record: Record | None, numbers: Sequence[int], arguments: argparse.Namespace) -> set[int]:
    """Numbers of which another attempt is wanted."""
    again = set(numbers)
    if record is None:
        if again or arguments.refill:
            raise UserError(f"there are no pictures in {root} to make others of: leave out --reroll and --refill.")
        return again
    if unknown := sorted(again - set(record.entries)):
        raise UserError(f"--reroll: there is no picture {unknown[0]} in {root}; the last one is {max(record.entries)}.")
    folder = folder_of(root, record)
    if arguments.refill:
        again |= {number for number, entry in record.entries.items() if folder.state(entry) == "rejected"}
    return again


def _make(
    root: Path, sheet: CharacterSheet, record: Record | None, again: set[int], arguments: argparse.Namespace
) -> tuple[Work, int]:
    """Settle what is to be made, and make it; returns how many pictures that were."""
    from tqdm import tqdm

    from library.cli.with_loras import load_with_loras, parse_lora
    from library.generation.identity import identity
    from library.generation.make import make, settle
    from library.generation.plan import Canvas
    from library.generation.review import write_review

    loras = [parse_lora(text) for text in arguments.lora]
    for path, _ in loras:
        if not path.is_file():
            near = [file.name for file in path.parent.glob("*.safetensors")] if path.parent.is_dir() else []
            raise UserError(f"--lora {path}: there is no such file.{did_you_mean(path.name, near)}")
    loaded = load_with_loras(arguments)
    latents = loaded.model.latents
    settings = {"clip_skip": arguments.clip_skip, "mixed_precision": arguments.mixed_precision}
    described = {
        "options": {name: getattr(arguments, name) for name in MODEL_OPTIONS},
        "identity": identity(loaded.model, loras, settings),
    }
    canvas = Canvas(latents.native_resolution, latents.stride)
    work = settle(root, sheet, arguments.count or COUNT, canvas, described, record, again, arguments.overwrite)

    def batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
        size = arguments.batch_size
        alike = sorted(entries, key=lambda e: (e.request.width, e.request.height)) if size > 1 else entries
        with tqdm(total=len(entries), desc="pictures", unit="picture", disable=not entries) as bar:
            for first in range(0, len(alike), size):
                yield alike[first : first + size]
                bar.update(len(alike[first : first + size]))

    try:
        make(work, lambda requests: loaded.paint(requests, batch_size=arguments.batch_size), batches)
    except KeyboardInterrupt:
        bare = " without --reroll" if arguments.reroll else ""
        print(f"What was made so far is kept: the same command{bare} goes on from there.")
        raise
    write_review(work.folder, list(work.record.entries.values()))
    return work, len(work.missing)


def _listed(sheet: CharacterSheet, count: int) -> str:
    """The pictures as they would be asked for."""
    pictures = plan(sheet, count)
    lines = [
        f"{each.number:4}  seed {each.seed}\n      prompt:  {each.prompt}\n      caption: {each.caption}"
        for each in pictures
    ]
    negative = [f"negative prompt: {sheet.negative}"] if sheet.negative else []
    shown = [{axis: choice.name for axis, choice in each.choices.items()} for each in pictures]
    return "\n".join(
        [*lines, *negative, f"how often each is shown in {how_many(count, 'picture')}:", coverage(sheet, shown)]
    )


def _warn_of_long_prompts(sheet: CharacterSheet, count: int) -> None:
    from library.models.caption_length import caption_counter

    counter = caption_counter(False)
    long = [each.number for each in plan(sheet, count) if counter(each.prompt) > CHUNK]
    told = (
        [f"the prompts of {len(long)} of {how_many(count, 'picture')} (number {long[0]} is the first)"] if long else []
    )
    if counter(sheet.negative) > CHUNK:
        told.append("the negative prompt")
    for what in told:
        print(
            f"warning: more than {CHUNK} tokens: {what}. The model does not read what is beyond them; shorten the sheet."
        )


def _tell(work: Work, made: int, arguments: argparse.Namespace) -> None:
    """What there is now, how evenly it covers the sheet, and what to do next."""
    folder, record = work.folder, work.record
    there = [entry for entry in record.entries.values() if folder.state(entry) == "made"]
    weeded = sum(folder.state(entry) == "rejected" for entry in record.entries.values())
    others = f", {weeded} weeded out" if weeded else ""
    sheet = sheet_of(record.sheet, NAME)
    is_demo = Path(arguments.pretrained_model_name_or_path) == DEMO_MODEL
    model = (
        "--extends demo" if is_demo else f'--pretrained_model_name_or_path "{arguments.pretrained_model_name_or_path}"'
    )
    class_word = f' --class_word "{sheet.class_word}"' if sheet.class_word else ""
    told = f"""\
{how_many(len(there), "picture")} of {record.character} in {folder.pictures} ({made} made now{others})
how often each is shown:
{coverage(sheet, [entry.choices for entry in there])}
look at   {folder.review / "sheet.png"}
weed out  dojo dataset generate --weed "{folder.root}" NUMBERS --refill
train     accelerate launch train_network.py --config presets/character.toml {model} --train_data_dir "{folder.root}" \
--trigger_word "{sheet.trigger}"{class_word} --output_name "{sheet.name}\""""
    print(harmless(told))
