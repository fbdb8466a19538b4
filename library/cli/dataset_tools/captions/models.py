"""Captions that a tagger or captioner writes, before they are edited."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import ImageColor

from library.cli.dataset_tools.captions.selection import Selection
from library.core.errors import UserError
from library.data.captions.editing import edited
from library.data.captions.line_edits import Origin
from library.data.captions.tag_edits import AddTags
from library.data.captions.tags import split_tags
from library.data.captions.written import Caption

if TYPE_CHECKING:
    from library.captioning.describe import Describe


def described(
    arguments: argparse.Namespace, selections: Sequence[Selection]
) -> tuple[list[Selection], list[str], list[str]]:
    """Captions with what the model says of their pictures.

    A preview asks the model about the first pictures only, and works on those.

    Returns:
        The captions that go on, without those whose picture cannot be read; their texts; and what is to be said.

    Raises:
        UserError: the model cannot be loaded, or there is nothing to describe.
    """
    _check_colour(arguments.background_color)
    wanted = [caption for each in selections for caption in each.captions if _is_asked(caption, arguments.mode)]
    if not wanted:
        raise UserError("every picture has a caption already: --mode replace, append or prepend goes on with those.")
    remarks = []
    if not arguments.apply and len(wanted) > arguments.show:
        remarks.append(f"this preview shows {arguments.show} of the {len(wanted)} pictures that are to be described.")
        wanted = wanted[: arguments.show]
        selections = [replace(each, captions=[c for c in each.captions if c in wanted]) for each in selections]
    from library.captioning.describe import describe_all

    pictures = [caption.picture for caption in wanted]
    texts, unreadable = describe_all(
        pictures, _model(arguments), arguments.batch_size, arguments.background_color, "describing pictures"
    )
    remarks += [f"{path} {reason} It gets no caption." for path, reason in unreadable.items()]
    kept = [replace(each, captions=[c for c in each.captions if c.picture not in unreadable]) for each in selections]
    made = [
        _joined(arguments, caption, texts[caption.picture]) if caption.picture in texts else caption.text
        for each in kept
        for caption in each.captions
    ]
    return kept, made, remarks


def _is_asked(caption: Caption, mode: str) -> bool:
    return mode != "only_missing" or not caption.text.strip()


def _joined(arguments: argparse.Namespace, caption: Caption, text: str) -> str:
    if arguments.mode in ("only_missing", "replace") or not text:
        return text or caption.text
    new = tuple(split_tags(text, arguments.caption_separator)) if arguments.tagger else (text,)
    add = AddTags(new, "back" if arguments.mode == "append" else "front")
    return edited(caption.text, add, Origin(separator=arguments.caption_separator))


def _model(arguments: argparse.Namespace) -> Describe:
    if arguments.tagger is not None:
        from library.captioning.tagger import TagChoice, Tagger

        undesired = tuple(split_tags(arguments.undesired_tags, arguments.caption_separator))
        choice = TagChoice(
            arguments.general_threshold, arguments.character_threshold, undesired, arguments.caption_separator
        )
        return Tagger(arguments.tagger, choice, arguments.device)
    from library.captioning.captioner import Captioner, Wording

    wording = Wording(arguments.prompt, arguments.num_beams, arguments.max_length)
    return Captioner(arguments.captioner, wording, arguments.device, arguments.dtype, arguments.allow_pickle)


def _check_colour(name: str) -> None:
    try:
        ImageColor.getrgb(name)
    except ValueError as error:
        raise UserError(
            f"--background_color {name} is no colour: a name such as white, or #rrggbb, is expected."
        ) from error
