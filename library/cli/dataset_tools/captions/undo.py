"""Taking back what `dojo dataset caption --apply` has written."""

from __future__ import annotations

import argparse
from pathlib import Path

from library.cli.dataset_tools.captions.report import change_lines, colours, history_line
from library.core.disk import writing
from library.core.errors import Exit, UserError
from library.data.captions.files import decoded
from library.data.captions.journal import Journal, Restoration, Step
from library.data.captions.written import Written, put, read_written


def history(arguments: argparse.Namespace) -> int:
    """Print the steps of each folder, the latest first."""
    for root in _roots(arguments):
        steps = Journal(root).steps()
        print(f"{root}: {len(steps)} {'step' if len(steps) == 1 else 'steps'}")
        for step in steps:
            print(history_line(step.made, step.files, step.command, step.state))
    return Exit.COMPLETE


def undo(arguments: argparse.Namespace) -> int:
    """Show or restore what was before the last steps.

    Raises:
        UserError: there is no step, or somebody else has changed captions since.
    """
    found = 0
    conflicts: list[tuple[Path, Restoration]] = []
    work: list[tuple[Journal, list[Step], list[Restoration]]] = []
    for root in _roots(arguments):
        journal = Journal(root)
        steps = [step for step in journal.steps() if step.state != "undone"][: arguments.steps or 1]
        restorations = journal.restorations([step.number for step in steps]) if steps else []
        found += len(steps)
        conflicts += [(root, each) for each in restorations if each.conflict]
        work.append((journal, steps, restorations))
    if not found:
        raise UserError("there is no step to undo (--history lists those that were applied).")
    for journal, steps, restorations in work:
        _tell(arguments, journal.root, steps, restorations)
    if conflicts and not (arguments.force or arguments.keep_changed):
        named = "\n".join(f"  {each.path}: {each.conflict}" for _, each in conflicts[: arguments.show])
        raise UserError(
            f"{len(conflicts)} of the captions are no longer what the step wrote, so nothing is restored:\n{named}\n"
            "--keep_changed restores all others and leaves these as they are; --force restores these too, and what they hold now is lost."
        )
    if not arguments.apply:
        print("Nothing was written. Run again with --apply to restore.")
        return Exit.COMPLETE
    restored = 0
    for journal, steps, restorations in work:
        chosen = [each for each in restorations if arguments.force or not each.conflict]
        for each in chosen:
            _restore(each)
        restored += len(chosen)
        journal.mark([step.number for step in steps], "undone")
    print(f"Restored {restored} {'file' if restored == 1 else 'files'}.")
    return Exit.COMPLETE


def _tell(arguments: argparse.Namespace, root: Path, steps: list[Step], restorations: list[Restoration]) -> None:
    for step in steps:
        print(
            f"{'undoes' if arguments.apply else 'would undo'} {history_line(step.made, step.files, step.command, step.state)}"
        )
    shown = [] if arguments.apply else restorations[: arguments.show]
    for each in shown:
        now, then = (None if data is None else decoded(data)[0] for data in (_bytes(each.path), each.content))
        label = each.path.name if each.path.parent == root else str(each.path)
        for line in change_lines(label, now, then, arguments.caption_separator, colours()):
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
