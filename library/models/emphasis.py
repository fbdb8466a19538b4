"""Emphasis in prompts, in the notation of A1111 and sd-scripts: `(words:1.2)`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from library.models.tokenizers import PromptTokenizer

EMPHASIS = 1.1

_PIECE = re.compile(
    r"""\\[()\[\]\\]?              # an escaped bracket or backslash
    | :(?P<weight>[+-]?[.\d]+)\)   # the end of (words:1.2)
    | [()\[\]:]
    | [^\\()\[\]:]+""",
    re.VERBOSE,
)


def parse_emphasis(prompt: str) -> list[tuple[str, float]]:
    """A prompt in the notation of A1111 and sd-scripts as (words, weight).

    `(words)` weigh 1.1, `[words]` 1/1.1, `(words:1.3)` 1.3, nested ones multiply; a backslash makes a bracket plain text.
    A bracket that is never closed reaches to the end.
    """
    pieces: list[list] = []
    open_round: list[int] = []
    open_square: list[int] = []

    def emphasise(since: int, weight: float) -> None:
        for piece in pieces[since:]:
            piece[1] *= weight

    for match in _PIECE.finditer(prompt):
        text, weight = match[0], match["weight"]
        if text.startswith("\\"):
            pieces.append([text[1:], 1.0])
        elif text == "(":
            open_round.append(len(pieces))
        elif text == "[":
            open_square.append(len(pieces))
        elif open_round and (weight is not None or text == ")"):
            emphasise(open_round.pop(), _number(weight) if weight is not None else EMPHASIS)
        elif open_square and text == "]":
            emphasise(open_square.pop(), 1 / EMPHASIS)
        else:
            pieces.append([text, 1.0])
    for since in open_round:
        emphasise(since, EMPHASIS)
    for since in open_square:
        emphasise(since, 1 / EMPHASIS)
    return list(_merged(pieces))


def count_tokens(prompt: str, tokenizer: PromptTokenizer, weighted: bool) -> int:
    """Tokens of the prompt, all of it, without start and end."""
    words = parse_emphasis(prompt) if weighted else [(prompt, 1.0)]
    return sum(len(tokenizer.encode(text)) for text, _ in words)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "1.2.3" is text that looks like a weight
        return 1.0


def _merged(pieces: list[list]) -> Iterator[tuple[str, float]]:
    """Neighbours of one weight as one piece: tokens form across them."""
    text, weight = "", 1.0
    for following, following_weight in pieces:
        if following_weight == weight:
            text += following
            continue
        if text:
            yield text, weight
        text, weight = following, following_weight
    yield text, weight
