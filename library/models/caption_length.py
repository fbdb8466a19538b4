"""How long captions are for CLIP, told before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from library.data.checks.preflight import fewest_tokens
from library.models.emphasis import count_tokens
from library.models.tokenizers import PromptTokenizer, packaged_tokenizer


def caption_counter(weighted: bool) -> Callable[[str], int]:
    """Counts a caption's tokens as the CLIP of every Stable Diffusion does; where its vocabulary is not installed, those that
    the caption has at least.

    Args:
        weighted: `(words:1.2)` is emphasis, whose signs are no tokens.
    """

    def count(caption: str) -> int:
        tokenizer = _clip()
        return fewest_tokens(caption) if tokenizer is None else count_tokens(caption, tokenizer, weighted)

    return count


@cache
def _clip() -> PromptTokenizer | None:
    """Read when the first caption asks for it: that takes a tenth of a second."""
    return packaged_tokenizer(pad=0)
