"""Call a LoRA's trigger word something else in what its file says of itself.

    dojo lora rename-trigger alexander.safetensors alex.safetensors --from alexander --to "alex the fighter"

The word is changed in the metadata (tag frequencies and their folders, modelspec.trigger_phrase, usage_hint, tags) and in the card beside
the file, `alexander.json`, which is written as `alex.json`. The weights stay bit for bit the same.

So the LoRA still answers to the tokens of the OLD word: only what managers and A1111 show changes. To teach it a new word, train with the
new word in the captions; going on from this file (--network_weights) for some hundred steps is enough as a rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from library.cli.arguments import command_parser
from library.cli.lora_tools.output import check_out
from library.core.errors import UserError


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = command_parser("lora rename-trigger", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="LoRA file")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--from", dest="old", required=True, metavar="OLD", help="the word as it is now")
    parser.add_argument("--to", dest="new", required=True, metavar="NEW", help="the word instead")
    parser.add_argument("--overwrite", action="store_true", help="let OUT be FILE itself")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Write the file and its card, and say what was changed and what was not."""
    arguments = parse(argv)
    old, new = arguments.old.strip(), arguments.new.strip()
    if not old or not new:
        raise UserError("--from and --to must each be a word.")
    check_out(arguments.out, [] if arguments.overwrite else [arguments.file])
    from library.core.terminal import harmless
    from library.lora_files.file import read_lora, save_lora
    from library.lora_files.names.styles import refuse_no_lora
    from library.lora_files.sidecars import read_card, save_card
    from library.lora_files.triggers import renamed_card, renamed_metadata

    tensors, metadata = read_lora(arguments.file)
    try:
        refuse_no_lora(tensors)
    except UserError as error:
        raise UserError(f"{arguments.file.as_posix()}: {error}") from error
    card = read_card(arguments.file)
    if card is not None and arguments.out.stem != arguments.file.stem and read_card(arguments.out) is not None:
        raise UserError(
            f"{arguments.out.with_suffix('.json').as_posix()} exists already: remove it, or name another file."
        )
    told = renamed_metadata(metadata, old, new)
    new_card = None if card is None else renamed_card(card, old, new)
    changed = [name for name in told if told[name] != metadata[name]]
    if not changed and new_card == card:
        raise UserError(
            f"{arguments.file.as_posix()} does not name '{old}' as a trigger word, neither in its metadata nor in its card: "
            "`dojo lora inspect` shows what it names."
        )
    save_lora(arguments.out, tensors, told)
    lines = [
        f"{arguments.out.as_posix()}: '{old}' is called '{new}' in {', '.join(changed) or 'nothing of the metadata'}."
    ]
    if new_card is not None:
        lines.append(f"{save_card(arguments.out, new_card).as_posix()}: the card of the same name.")
    lines.append(
        f"The weights are the same: they still answer to the tokens of '{old}', and '{new}' does in a prompt what it did before. "
        "To teach them the new word, train with it in the captions (--network_weights goes on from this file)."
    )
    print(harmless("\n".join(lines)))
