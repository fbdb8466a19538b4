"""What `dojo dataset caption` does: captions chosen, described, edited, counted, shown and written."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from library.cli.dataset_tools.captions.doubts import about_guesses, nothing_found, set_aside
from library.cli.dataset_tools.captions.edits import Words, build_edits
from library.cli.dataset_tools.captions.report import change_lines, statistics_lines
from library.cli.dataset_tools.captions.selection import Selection, select
from library.core.errors import Exit, UserError, did_you_mean, raise_all
from library.core.terminal import harmless, has_colours
from library.core.wording import how_many
from library.data.captions.editing import edit_all
from library.data.captions.journal import Journal
from library.data.captions.line_edits import Edit, Origin
from library.data.captions.pipeline import mentions
from library.data.captions.tag_edits import RemoveTags, ReplaceTag, TriggerFirst
from library.data.captions.tags import TagMatcher, count_tags, split_tags, tag_key, tags_of
from library.data.captions.written import Caption, Change, is_unchanged, put


def show_statistics(arguments: argparse.Namespace) -> int:
    """Print counts of tags and tokens.

    Raises:
        UserError: there is nothing to count.
    """
    from library.data.captions.statistics import count
    from library.models.caption_length import caption_counter

    selections = select(arguments, with_missing=False)
    several = len(selections) > 1
    labelled = [
        (each.label(caption) if several else caption.label, caption.text)
        for each in selections
        for caption in each.captions
    ]
    missing = sum(len(each.collection.missing) for each in selections)
    if not labelled and (not missing or any(each.collection.captions for each in selections)):
        raise nothing_found(arguments, selections)
    for remark in about_guesses(selections):
        print(harmless(f"notice: {remark}"), file=sys.stderr)
    found = count(labelled, arguments.caption_separator, caption_counter(False), arguments.trigger_word, missing)
    if arguments.json:
        import json

        print(json.dumps(found.as_table(), indent=2, ensure_ascii=True))
    else:
        for line in statistics_lines(found, arguments.trigger_word, arguments.show):
            print(harmless(line))
    return Exit.COMPLETE


def edit(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Show what the edits change, or write it."""
    words = Words(arguments.caption_separator, arguments.trigger_word, arguments.class_word)
    edits = build_edits(arguments.edits, words)
    has_model = arguments.tagger is not None or arguments.captioner is not None
    selections = select(arguments, with_missing=arguments.create or arguments.only_missing or has_model)
    if not any(each.captions for each in selections):
        raise nothing_found(arguments, selections)
    selections, remarks = set_aside(arguments, selections)
    texts = [caption.text for each in selections for caption in each.captions]
    if has_model:
        from library.cli.dataset_tools.captions.models import described

        selections, texts, about_pictures = described(arguments, selections)
        remarks += about_pictures
    captions = [caption for each in selections for caption in each.captions]
    made, counts = edit_all(texts, edits, [_origin(caption, words) for caption in captions])
    made = [_ended(caption, text) for caption, text in zip(captions, made, strict=True)]
    changes = _changes(arguments, selections, made)
    if not arguments.apply:
        _show(arguments, selections, made)
    _sum_up(arguments, captions, made, counts)
    for remark in [*remarks, *_about(edits, texts, made, words)]:
        print(harmless(f"notice: {remark}"))
    return _write(changes, argv) if arguments.apply else _only_shown(changes)


def _origin(caption: Caption, words: Words) -> Origin:
    folder = caption.picture.absolute().parent.name
    return Origin(caption.picture.stem, folder, words.separator, words.trigger, words.class_word)


def _ended(caption: Caption, text: str) -> str:
    """A new file ends with a line end, as editors leave it."""
    return f"{text}\n" if caption.source.data is None and text and not text.endswith("\n") else text


def _changes(
    arguments: argparse.Namespace, selections: Sequence[Selection], made: list[str]
) -> list[tuple[Path, list[Change]]]:
    """Of each folder with a journal, once, the files that change: what one command does is one step there.

    Raises:
        UserError: one of them is read-only.
    """
    by_root: dict[Path, list[Change]] = {}
    at = 0
    for each in selections:
        texts = made[at : at + len(each.captions)]
        at += len(texts)
        changes = each.collection.changes(each.captions, texts, arguments.to_utf8)
        by_root.setdefault(each.collection.root.absolute(), []).extend(changes)
    found = list(by_root.items())
    locked = [str(change.source.path) for _, changes in found for change in changes if change.source.is_read_only]
    if locked:
        named = "\n".join(f"  {path}" for path in locked[: arguments.show])
        raise UserError(
            f"{how_many(len(locked), 'caption that would change is', 'captions that would change are')} read-only, so nothing is written:\n"
            f"{named}\nMake them writable, or leave them out with --files, --where_tag or --where_missing."
        )
    return found


def _show(arguments: argparse.Namespace, selections: Sequence[Selection], made: Sequence[str]) -> None:
    changed, at, colour = 0, 0, has_colours(sys.stdout)
    for each in selections:
        for caption in each.captions:
            text = made[at]
            at += 1
            if text == caption.text:
                continue
            changed += 1
            if changed <= arguments.show:
                before = None if caption.source.data is None else caption.text
                label = each.label(caption) if len(selections) > 1 else caption.label
                for line in change_lines(label, before, text, arguments.caption_separator, colour):
                    print(line)
    if changed > arguments.show:
        print(f"... and {changed - arguments.show} more (--show {changed})")


def _sum_up(
    arguments: argparse.Namespace, captions: Sequence[Caption], made: Sequence[str], counts: Sequence[int]
) -> None:
    changed = sum(caption.text != text for caption, text in zip(captions, made, strict=True))
    new = sum(caption.source.data is None and text != "" for caption, text in zip(captions, made, strict=True))
    verb = "would change" if not arguments.apply else "changes" if changed == 1 else "change"
    print(f"{changed} of {how_many(len(captions), 'caption')} {verb}" + (f", {new} of them new." if new else "."))
    for (name, value), number in zip(arguments.edits, counts, strict=True):
        print(harmless(f"  {number:6}  --{name} {shlex.quote(value) if value else ''}".rstrip()))
    if arguments.to_utf8:
        others = [caption.encoding for caption in captions if caption.encoding]
        print(f"  {len(others):6}  --to_utf8" + (f" ({', '.join(sorted(set(others)))})" if others else ""))


def _about(edits: Sequence[Edit], texts: Sequence[str], made: Sequence[str], words: Words) -> list[str]:
    """What somebody who gave these edits may not expect."""
    remarks = []
    wanted = [tag for edit in edits for tag in _sought(edit)]
    if absent := _absent(wanted, [*texts, *made], words.separator):
        known = count_tags([*texts, *made], words.separator)
        remarks += [
            f"the tag '{tag}' is in none of these captions.{did_you_mean(tag_key(tag), known)}" for tag in absent
        ]
    if any(isinstance(edit, TriggerFirst) for edit in edits):
        first = tag_key(split_tags(words.trigger, words.separator)[0])
        within = sum(
            tag_key(split_tags(line, words.separator)[0]) != first
            for text in made
            for line in text.splitlines()
            if not line.startswith(f"{first}{words.separator}") and mentions(line, words.trigger)
        )
        if within:
            remarks.append(
                f"in {how_many(within, 'line')} '{words.trigger}' stands within a longer tag or sentence: it stays where it is there."
            )
    return remarks


def _sought(edit: Edit) -> Sequence[str]:
    """Tags without which an edit does nothing."""
    if isinstance(edit, RemoveTags):
        return edit.tags
    return (edit.old,) if isinstance(edit, ReplaceTag) else ()


def _absent(wanted: Sequence[str], texts: Sequence[str], separator: str) -> list[str]:
    """Those of the wanted tags that are in no caption; looked for only until all are found."""
    absent = {tag: TagMatcher([tag]) for tag in wanted}
    for text in texts:
        if not absent:
            break
        tags = tags_of(text, separator)
        absent = {tag: is_it for tag, is_it in absent.items() if not any(map(is_it, tags))}
    return list(absent)


def _only_shown(found: Sequence[tuple[Path, list[Change]]]) -> int:
    if any(changes for _, changes in found):
        print("Nothing was written. Run again with --apply to write.")
    return Exit.COMPLETE


def _write(found: Sequence[tuple[Path, list[Change]]], argv: Sequence[str]) -> int:
    """Note every file in its folder's journal, then write them.

    Raises:
        UserError: a file was changed or removed by somebody else meanwhile; the others are written.
    """
    written, mistakes = 0, []
    for root, changes in found:
        if not changes:
            continue
        journal = Journal(root)
        command = shlex.join(["dojo", "dataset", "caption", *argv])
        step = journal.record(command, [(each.source.path, each.source.data, each.after) for each in changes])
        left = []
        try:
            for each in changes:
                if is_unchanged(each.source):
                    put(each.source, each.after)
                else:
                    left.append(each.source.path)
        except BaseException:  # Ctrl-C too
            print("Not all captions are written; --undo takes back those that are.")
            raise
        journal.forget(step, left)
        journal.finish(step)
        written += len(changes) - len(left)
        mistakes += [
            f"{path} was changed or removed while it was edited; it is left as it is. Run again." for path in left
        ]
    if written:
        print(f"Wrote {how_many(written, 'file')}. --undo takes that back.")
    raise_all(mistakes)
    return Exit.COMPLETE
