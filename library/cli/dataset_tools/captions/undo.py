"""Taking back what `dojo dataset caption --apply` has written."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from library.cli.dataset_tools.captions.report import change_lines, history_line
from library.core.disk import writing
from library.core.errors import Exit, UserError
from library.core.terminal import harmless, has_colours
from library.core.wording import first_of, how_many
from library.data.captions.files import decoded
from library.data.captions.journal import Journal, Restoration, Step
from library.data.captions.written import Written, put, read_written


def history(arguments: argparse.Namespace) -> int:
    """Print the steps of each folder, the latest first."""
    for root in _roots(arguments):
        steps = Journal(root).steps()
        print(harmless(f"{root}: {how_many(len(steps), 'step')}"))
        for step in steps:
            print(history_line(step.made, step.files, step.command, step.state))
    return Exit.COMPLETE


@dataclass(frozen=True)
class Undoing:
    """What undoing does in one folder."""

    journal: Journal
    steps: list[Step]
    chosen: list[Restoration]
    left: list[Restoration]
    """Files that stay as somebody else has made them."""


def undo(arguments: argparse.Namespace) -> int:
    """Show or restore what was before the last steps.

    Raises:
        UserError: there is no step, or somebody else has changed captions since.
    """
    work = [_planned(arguments, root) for root in _roots(arguments)]
    left = [each for folder in work for each in folder.left]
    if not any(folder.steps for folder in work):
        raise UserError(
            "there is no step to undo (--history lists those that were applied; --force undoes what --keep_changed has left)."
        )
    for folder in work:
        _tell(arguments, folder)
    if left and not arguments.keep_changed:
        named = "\n".join(f"  {each.path}: {each.conflict}" for each in left[: arguments.show])
        raise UserError(
            f"{how_many(len(left), 'caption is', 'captions are')} no longer what the step wrote, so nothing is restored:\n{named}\n"
            "--keep_changed restores all others and leaves these as they are; --force restores these too, and what they hold now is lost."
        )
    if arguments.apply:
        for folder in work:
            for each in folder.chosen:
                _restore(each)
            folder.journal.take_back([step.number for step in folder.steps], [each.path for each in folder.left])
        print(f"Restored {how_many(sum(len(folder.chosen) for folder in work), 'file')}.")
    if left:
        named = first_of([f"{each.path} {each.conflict}" for each in left], arguments.show)
        verb = "Left" if arguments.apply else "Would leave"
        print(
            harmless(f"{verb} {how_many(len(left), 'file')} alone: {named}. --undo --force --apply restores that, too.")
        )
    if not arguments.apply:
        print("Nothing was written. Run again with --apply to restore.")
    return Exit.COMPLETE


def _planned(arguments: argparse.Namespace, root: Path) -> Undoing:
    journal = Journal(root)
    passed = ("undone",) if arguments.force else ("undone", "partly")  # nothing but force does the rest of a step
    steps = [step for step in journal.steps() if step.state not in passed][: arguments.steps or 1]
    restorations = journal.restorations([step.number for step in steps]) if steps else []
    chosen = [each for each in restorations if arguments.force or not each.conflict]
    return Undoing(journal, steps, chosen, [] if arguments.force else [each for each in restorations if each.conflict])


def _tell(arguments: argparse.Namespace, folder: Undoing) -> None:
    root, restorations = folder.journal.root, folder.chosen
    for step in folder.steps:
        print(
            f"{'undoes' if arguments.apply else 'would undo'} {history_line(step.made, step.files, step.command, step.state)}"
        )
    shown = [] if arguments.apply else restorations[: arguments.show]
    for each in shown:
        now, then = (None if data is None else decoded(data)[0] for data in (_bytes(each.path), each.content))
        label = each.path.name if each.path.parent == root else str(each.path)
        for line in change_lines(label, now, then, arguments.caption_separator, has_colours(sys.stdout)):
            print(line)
    if len(restorations) > len(shown) and not arguments.apply:
        print(f"... and {len(restorations) - len(shown)} more (--show {len(restorations)})")


def _restore(restoration: Restoration) -> None:
    path = restoration.path
    if restoration.content is not None:
        put(read_written(path) if path.exists() else Written(path, None), restoration.content)
        return
    with writing(path):
        path.unlink(missing_ok=True)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _roots(arguments: argparse.Namespace) -> list[Path]:
    """Folders that have a journal of their own.

    Raises:
        UserError: one of them is not there.
    """
    folders = [*arguments.folders, *(file.parent for file in arguments.in_json)]
    roots = list(dict.fromkeys(folder.absolute() for folder in folders))
    for root in roots:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}. Check the path.")
    return roots
