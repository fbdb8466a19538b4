"""Edit captions in bulk, with preview and undo; count their tags; or have a model on this machine write them.

examples:
    dojo dataset caption pictures/anna --stats --trigger_word anna
    dojo dataset caption pictures/anna --trigger_word anna --trigger_first --remove_tags "blurry, *background*"
    dojo dataset caption pictures/anna --trigger_word anna --trigger_first --remove_tags "blurry, *background*" --apply
    dojo dataset caption pictures/anna --undo --apply
    dojo dataset caption pictures/anna --only_missing --template "{trigger}, {class}" --trigger_word anna --class_word woman
    dojo dataset caption pictures/anna --tagger models/wd-vit-tagger-v3 --trigger_word anna --trigger_first --apply

Without --apply nothing is written: what would change is shown. Edits are done in the order in which they stand on the command line, each line
of a caption by itself. Tags are the same whatever their case, and with spaces or underscores. What --apply writes is noted in the folder's
.dojo, so that --undo can take it back. docs/captions.md shows typical jobs.

Exit status 2 where something could not be done.
"""

from __future__ import annotations

from collections.abc import Sequence

from library.cli.dataset_tools.captions.options import parse


def main(argv: Sequence[str]) -> int:
    """Do what is asked; returns the exit status."""
    arguments = parse(argv, __doc__)
    from library.cli.dataset_tools.captions import undo, work

    if arguments.history:
        return undo.history(arguments)
    if arguments.undo:
        return undo.undo(arguments)
    if arguments.stats:
        return work.show_statistics(arguments)
    return work.edit(arguments, argv)
