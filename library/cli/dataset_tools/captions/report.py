"""What `dojo dataset caption` prints: changes of captions, and statistics of tags."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from library.core.terminal import harmless
from library.core.wording import first_of, how_many
from library.data.captions.statistics import CHUNK, CaptionStatistics

RED, GREEN, BOLD, PLAIN = "\x1b[31;9m", "\x1b[32m", "\x1b[1m", "\x1b[0m"

LONG_LINE = 400
"""Characters from which what stays the same is left out of a shown line."""

AROUND = 3
"""Tags that are shown on either side of what is left out."""

MOST_TAGS = 60
"""Of a run of new or removed ones that are shown."""

RAREST = 12
"""Tags of a single caption that are named; of all tags, they are the most."""

BAR = 24


def change_lines(label: str, before: str | None, after: str | None, separator: str, colour: bool) -> Iterator[str]:
    """A changed caption as lines with - and +; None stands for a file that is not there."""
    name = harmless(label).replace("\n", "\\n")
    yield f"{BOLD}{name}{PLAIN}" if colour else name
    old, new = (before or "").splitlines() or [""], (after or "").splitlines() or [""]
    for line in range(max(len(old), len(new))):
        left, right = (lines[line] if line < len(lines) else "" for lines in (old, new))
        if left == right and len(old) + len(new) > 2:
            continue
        removed, added = _both(left, right, separator, colour)
        if before is not None:
            yield f"  - {removed or '(empty)'}"
        yield f"  + {added or '(empty)'}" if after is not None else "  + (no file)"


def history_line(made: str, files: int, command: str, state: str) -> str:
    """A step of the journal."""
    remark = {"undone": " (undone)", "writing": " (cut short)", "partly": " (left when the others were undone)"}
    return harmless(f"{made}  {files:>6} {'file ' if files == 1 else 'files'}{remark.get(state, '')}  {command}")


def statistics_lines(found: CaptionStatistics, trigger: str, show: int) -> Iterator[str]:
    """The statistics as a table.

    Args:
        show: tags and names that are listed of each kind.
    """
    empty = how_many(found.empty, "empty one")
    yield f"{how_many(found.captions, 'caption')}, {empty}, {how_many(found.missing, 'picture')} without a caption."
    if not found.captions:
        return
    for what, spread in (("tags", found.tags_each), ("tokens", found.tokens_each)):
        yield f"{what} a caption: {spread.least} to {spread.most}, median {spread.median:g}"
    yield f"different tags: {len(found.tags)}"
    if found.too_long:
        yield f"longer than {CHUNK} tokens (raise max_token_length, or shorten them): {_some(found.too_long, show)}"
    if found.without_trigger:
        yield f"without the trigger '{trigger}': {_some(found.without_trigger, show)}"
    elif found.without_trigger is not None:
        yield f"the trigger '{trigger}' is in every caption"
    if every := found.in_every():
        yield f"in every caption (learnt as part of the trigger): {_some(every, show)}"
    if once := found.once():
        rest = " (--json lists them all)" if len(once) > RAREST else ""
        yield f"in one caption only: {_some(once, min(show, RAREST))}{rest}"
    several = [each for each in found.tags if len(each.spellings) > 1]
    if several:
        spelt = [" / ".join(each.spellings) for each in several]
        yield f"spelt in several ways (--dedupe, --underscores_to_spaces or --replace_tag): {_some(spelt, show)}"
    yield ""
    yield f"captions  share {'':{BAR}}  tag"
    for each in found.tags[:show]:
        share = each.captions / found.captions
        yield f"{each.captions:8} {share:6.1%} {'#' * max(1, round(share * BAR)):{BAR}}  {each.tag}"
    if len(found.tags) > show:
        yield f"... and {len(found.tags) - show} more (--show {len(found.tags)})"


def _some(names: Sequence[str], show: int) -> str:
    """Their number and the first of them."""
    return f"{len(names)}: {first_of(names, show)}"


def _both(left: str, right: str, separator: str, colour: bool) -> tuple[str, str]:
    """Both lines as they are shown: what differs is coloured, and long stretches that do not are left out."""
    old, new = _pieces(left, separator), _pieces(right, separator)
    shortened = max(len(left), len(right)) > LONG_LINE
    if not colour and not shortened:
        return harmless(left), harmless(right)
    shown: tuple[list[str], list[str]] = [], []
    bare_old, bare_new = ([piece.strip(f" {separator}") for piece in pieces] for pieces in (old, new))
    for kind, a, b, c, d in difflib.SequenceMatcher(None, bare_old, bare_new, autojunk=False).get_opcodes():
        for lines, pieces, ink in ((shown[0], old[a:b], RED), (shown[1], new[c:d], GREEN)):
            same = kind == "equal"
            text = harmless(_joined(pieces, AROUND if same else MOST_TAGS // 2, shortened))
            lines.append(f"{ink}{text}{PLAIN}" if colour and text.strip() and not same else text)
    return "".join(shown[0]), "".join(shown[1])


def _joined(pieces: Sequence[str], around: int, shortened: bool) -> str:
    left_out = len(pieces) - 2 * around
    if not shortened or left_out <= 1:
        return "".join(pieces)
    return "".join(pieces[:around]) + f" ...({left_out} more)... " + "".join(pieces[-around:])


def _pieces(line: str, separator: str) -> list[str]:
    """Tags, each with the separator behind it, or words where there are no tags."""
    if separator not in line:
        return re.findall(r"\s*\S+", line)
    parts = re.split(f"({re.escape(separator)}\\s*)", line)
    return [tag + gap for tag, gap in zip(parts[::2], [*parts[1::2], ""])]
