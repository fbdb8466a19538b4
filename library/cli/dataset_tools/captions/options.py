"""The command line of `dojo dataset caption`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from encodings import aliases
from pathlib import Path

from library.cli.arguments import command_parser, positive
from library.cli.dataset_tools.captions.edits import OPTIONS, add_edits
from library.core.errors import did_you_mean, raise_all

WORK = ("stats", "undo", "history")
"""What can be done instead of editing."""

EDITING = ("edits", "create", "to_utf8", "tagger", "captioner")

BELONGS_TO = {
    "steps": ("undo",),
    "force": ("undo",),
    "keep_changed": ("undo",),
    "json": ("stats",),
    "apply": (*EDITING, "undo"),
    **dict.fromkeys(
        ("where_tag", "where_missing", "files", "recursive", "caption_extension", "encoding"), (*EDITING, "stats")
    ),
    "only_missing": ("edits",),
    **dict.fromkeys(("mode", "batch_size", "device", "background_color"), ("tagger", "captioner")),
    **dict.fromkeys(("general_threshold", "character_threshold", "undesired_tags"), ("tagger",)),
    **dict.fromkeys(("prompt", "num_beams", "max_length", "dtype", "allow_pickle"), ("captioner",)),
}
"""Options that have a meaning with one of certain others only."""


def parse(argv: Sequence[str], description: str | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: options that contradict one another.
    """
    parser = command_parser("dataset caption", description)
    parser.usage = "dojo dataset caption FOLDER [FOLDER ...] [edits and options]"
    parser.allow_abbrev = False  # the order of edits is kept by their full names
    parser.add_argument(
        "folders", type=Path, nargs="*", metavar="FOLDER", help="folders of pictures with their captions"
    )
    parser.add_argument(
        "--in_json",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="metadata (.json or .jsonl) whose captions are edited; of each entry its tags, where it has some, else its caption",
    )
    parser.add_argument("--recursive", action="store_true", help="the folders within them too")
    parser.add_argument(
        "--caption_extension",
        metavar="EXT",
        help="ending of captions; unset: .caption or .txt, whichever is there, and .txt for new ones",
    )
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help="of captions that are no UTF-8 and do not say what they are: shift_jis, gb18030, cp1251, ...; unset: those are left alone",
    )
    parser.add_argument("--caption_separator", default=",", metavar="TEXT", help="what separates tags (a comma)")
    parser.add_argument(
        "--trigger_word", default="", metavar="WORD", help="the trigger, for --trigger_first, {trigger} and --stats"
    )
    parser.add_argument("--class_word", default="", metavar="WORD", help="what it is an example of, for {class}")
    _add_choice(parser)
    add_edits(parser)
    _add_work(parser)
    _add_models(parser)
    arguments = parser.parse_intermixed_args(argv)
    given = vars(arguments)
    _check(arguments, [name for name in given if given[name] != parser.get_default(name)], list(given))
    return arguments


def _add_choice(parser: argparse.ArgumentParser) -> None:
    chosen = parser.add_argument_group("which captions")
    chosen.add_argument(
        "--where_tag",
        action="append",
        default=[],
        metavar="TAG",
        help="those that have this tag; several: all of them; * stands for any text",
    )
    chosen.add_argument("--where_missing", action="append", default=[], metavar="TAG", help="those that lack it")
    chosen.add_argument(
        "--only_missing",
        action="store_true",
        help="those of pictures that have no caption, which are made, or an empty one; all others stay",
    )
    chosen.add_argument(
        "--files", metavar="GLOB", help='those of pictures of such a name or path, as "anna_0*" or "10_anna/*"'
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    writing = parser.add_argument_group("what is done")
    writing.add_argument(
        "--create", action="store_true", help="also make captions for pictures that have none, from an empty one"
    )
    writing.add_argument(
        "--to_utf8",
        action="store_true",
        help="also save captions of other encodings as UTF-8; those that could be anything are taken for Windows-1252",
    )
    writing.add_argument("--apply", action="store_true", help="write, instead of showing what would be written")
    writing.add_argument("--undo", action="store_true", help="take back the last step (shown, until --apply is added)")
    writing.add_argument("--steps", type=positive, metavar="N", help="with --undo: the last N steps (1)")
    writing.add_argument("--force", action="store_true", help="with --undo: captions that were changed since as well")
    writing.add_argument(
        "--keep_changed", action="store_true", help="with --undo: all others, and leave those as they are"
    )
    writing.add_argument("--history", action="store_true", help="list the steps that were applied")
    writing.add_argument("--stats", action="store_true", help="count tags and tokens")
    writing.add_argument("--json", action="store_true", help="with --stats: as JSON, complete")
    writing.add_argument(
        "--show", type=positive, default=20, metavar="N", help="captions, tags or names that are listed (20)"
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("captions by a model on this machine; edits are done to what it writes")
    models.add_argument(
        "--tagger", type=Path, metavar="FOLDER", help="model.onnx with selected_tags.csv, such as SmilingWolf's taggers"
    )
    models.add_argument(
        "--captioner",
        type=Path,
        metavar="FOLDER",
        help="an image-to-text model of transformers: BLIP, BLIP-2, GIT, Florence-2, LLaVA, ...",
    )
    models.add_argument(
        "--mode",
        choices=["only_missing", "replace", "append", "prepend"],
        default="only_missing",
        help="what becomes of captions that are there (only_missing: they stay)",
    )
    models.add_argument("--batch_size", type=positive, default=8, metavar="N", help="pictures at a time (8)")
    models.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    models.add_argument("--background_color", default="white", metavar="COLOR", help="behind transparent pictures")
    models.add_argument(
        "--general_threshold",
        type=float,
        default=0.35,
        metavar="P",
        help="tagger: probability from which a tag counts (0.35)",
    )
    models.add_argument(
        "--character_threshold", type=float, default=0.85, metavar="P", help="the same for names of characters (0.85)"
    )
    models.add_argument("--undesired_tags", default="", metavar="TAGS", help="tagger: tags that are never written")
    models.add_argument(
        "--prompt", default="", metavar="TEXT", help="captioner: what it is asked, or how its captions begin"
    )
    models.add_argument("--num_beams", type=positive, default=1, metavar="N", help="captioner: beams of the search (1)")
    models.add_argument("--max_length", type=positive, default=75, metavar="N", help="captioner: tokens at most (75)")
    models.add_argument(
        "--dtype",
        choices=["auto", "fp32", "fp16", "bf16"],
        default="auto",
        help="captioner: type of its weights (bf16 on a GPU, else fp32)",
    )
    models.add_argument(
        "--allow_pickle",
        action="store_true",
        help="captioner: read weights that are no safetensors, without running what is in them",
    )


def _check(arguments: argparse.Namespace, given: Sequence[str], order: Sequence[str]) -> None:
    """See that the options go together.

    Args:
        given: names of the options that have another value than the default, as the help lists them.
        order: of all names in the help.

    Raises:
        UserErrors: everything that contradicts itself.
    """
    work = [name for name in given if name in WORK]
    editing = [name for name in given if name in EDITING]
    typed = {name for name, _ in arguments.edits}
    mistakes = [
        f"--{name} has no effect without {_any_of(sorted(BELONGS_TO[name], key=order.index))}."
        for name in given
        if name in BELONGS_TO and not set(given) & set(BELONGS_TO[name])
    ]
    if not arguments.folders and not arguments.in_json:
        mistakes.append("name a folder of pictures, or a metadata file with --in_json.")
    if not arguments.caption_separator.strip() and arguments.caption_separator != " ":
        mistakes.append("--caption_separator is empty.")
    if len(work) > 1:
        mistakes.append(f"--{' and --'.join(work)} cannot be done in one go: give one of them.")
    if work and editing:
        edits = [name for name in OPTIONS if name in typed]
        named = [name for each in editing for name in (edits if each == "edits" else [each])]
        mistakes.append(f"--{work[0]} edits nothing: leave out --{', --'.join(named)}.")
    if not work and not set(editing) - {"create"}:
        mistakes.append(
            "there is nothing to do: give an edit such as --trigger_first or --remove_tags, or --stats, --undo or --history "
            "(`dojo dataset caption --help` lists them all)."
        )
    if arguments.tagger and arguments.captioner:
        mistakes.append("give --tagger or --captioner; a second run with --mode append adds what the other says.")
    if arguments.force and arguments.keep_changed:
        mistakes.append("--force and --keep_changed contradict each other.")
    if arguments.encoding is not None:
        mistakes += _unknown_encoding(arguments.encoding)
    mistakes += _given_twice([folder.absolute() for folder in arguments.folders], arguments.recursive)
    mistakes += _given_twice([file.absolute() for file in arguments.in_json], False)
    raise_all(mistakes)


def _any_of(names: Sequence[str]) -> str:
    """The options as they are typed; `edits` are many."""
    shown = ["an edit (--add_tags, ...)" if name == "edits" else f"--{name}" for name in names]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def _unknown_encoding(name: str) -> list[str]:
    try:
        with suppress(UnicodeDecodeError):  # where a character has two bytes
            b"a".decode(name)
    except LookupError:
        near = did_you_mean(name, (alias.replace("_", "-") for alias in aliases.aliases))
        return [f"--encoding {name}: there is no such encoding of texts.{near}"]
    return []


def _given_twice(roots: Sequence[Path], recursive: bool) -> list[str]:
    for number, root in enumerate(roots):
        others = [*roots[:number], *roots[number + 1 :]]
        if root in others or (recursive and any(root in each.parents for each in others)):
            return [f"{root} is given twice, or with a folder inside it: its captions would be edited twice."]
    return []
