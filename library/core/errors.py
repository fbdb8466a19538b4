"""Errors that are told to the user in plain words, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import IntEnum

from library.core.terminal import harmless


class Exit(IntEnum):
    """Why a command ended, as its exit status; 128 + n stands for the signal n, as in shells."""

    COMPLETE = 0
    MISTAKE = 2
    """Something that the user must mend."""
    BROKEN_VALUES = 3
    """A loss, gradient or weight that is not finite."""
    OUT_OF_MEMORY = 4
    DISK_FULL = 5
    TIME_UP = 6
    """`max_train_time` is over; the state is saved, and `resume` continues."""
    PROCESS_LOST = 7
    """Another process of the run failed or is gone."""


class UserError(Exception):
    """What the user can mend: the message names the key or file, what was found, and what to do.

    Args:
        message: what is wrong, where, and how to mend it. What it quotes from files is made harmless to terminals.
        exit_code: status the process ends with.

    `messages` holds each mistake by itself: one, but of `UserErrors`.
    """

    def __init__(self, message: str, exit_code: Exit = Exit.MISTAKE) -> None:
        super().__init__(harmless(message))
        self.messages = [message]
        self.exit_code = exit_code


class UserErrors(UserError):
    """Several mistakes found together, shown as one numbered list."""

    def __init__(self, messages: Sequence[str]) -> None:
        listed = "\n".join(f"  {number}. {message}" for number, message in enumerate(messages, start=1))
        super().__init__(messages[0] if len(messages) == 1 else f"{len(messages)} problems:\n{listed}")
        self.messages = list(messages)


def raise_all(messages: Sequence[str]) -> None:
    """Raise `UserErrors` when there is at least one message."""
    if messages:
        raise UserErrors(messages)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' for the nearest known word, or '' when none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
