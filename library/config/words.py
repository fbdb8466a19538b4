"""The run's own words in prompts: `{trigger_word}` and `{class_word}`."""

from __future__ import annotations

from library.config.schema.data import DataConfig


def with_words(prompt: str, data: DataConfig) -> str:
    """The prompt with those options in place of their names; a tag that this leaves empty is dropped."""
    filled = prompt
    for name, word in (("{trigger_word}", data.trigger_word), ("{class_word}", data.class_word)):
        if name in filled:
            filled = filled.replace(name, word)
            filled = filled if word else ", ".join(tag.strip() for tag in filled.split(",") if tag.strip())
    return filled
