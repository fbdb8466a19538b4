"""Captions that a tagger or captioner writes, before they are edited."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import ImageColor

from library.cli.dataset_tools.captions.selection import Selection
from library.core.errors import UserError
from library.core.wording import how_many
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
        The captions that were described, those whose picture cannot be read apart; their texts; and what is to be said.

    Raises:
        UserError: the model cannot be loaded, or there is nothing to describe.
    """
    _check_colour(arguments.background_color)
    asked = [replace(each, captions=[c for c in each.captions if _is_asked(c, arguments.mode)]) for each in selections]
    number = sum(len(each.captions) for each in asked)
    if not number:
        raise UserError("every picture has a caption already: --mode replace, append or prepend goes on with those.")
    remarks = []
    if not arguments.apply and number > arguments.show:
        remarks.append(f"this preview shows {arguments.show} of the {number} pictures that are to be described.")
        asked = _first(asked, arguments.show)
    from library.captioning.describe import describe_all

    pictures = [caption.picture for each in asked for caption in each.captions]
    texts, unreadable = describe_all(
        pictures, _model(arguments), arguments.batch_size, arguments.background_color, "describing pictures"
    )
    remarks += [f"{path} {reason} It gets no caption." for path, reason in unreadable.items()]
    if (done := len(texts) + len(unreadable)) < len(set(pictures)):
        rest = "run again for the rest" if arguments.mode == "only_missing" else "the others stay as they are"
        remarks.append(f"stopped after {done} of {how_many(len(set(pictures)), 'picture')}: {rest}.")
    kept = [replace(each, captions=[c for c in each.captions if c.picture in texts]) for each in asked]
    made = [_joined(arguments, caption, texts[caption.picture]) for each in kept for caption in each.captions]
    return kept, made, remarks


def _first(selections: Sequence[Selection], count: int) -> list[Selection]:
    """No more than so many captions of them all."""
    first = []
    for each in selections:
        first.append(replace(each, captions=each.captions[:count]))
        count -= len(first[-1].captions)
    return first


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
