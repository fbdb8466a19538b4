"""A command line as text, as guides print it, split into words: line ends of bash, cmd and PowerShell, quotes, Windows paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from library.core.errors import UserError

CONTINUED = re.compile(r"(?<![ \t])[ \t]*[\\^`][ \t]*(?:\r?\n|$)")
COMMENT = re.compile(r"^[ \t]*(?:#|::|REM\b).*$", re.IGNORECASE | re.MULTILINE)
SCRIPT = re.compile(r"(?:^|[/\\])(\w*train\w*)\.py$")
VARIABLE = re.compile(r"\$(?:env:)?\{?(?P<name>\w+)\}?|%(?P<of_cmd>\w+)%|\$\([^)]*\)?")
ASSIGNMENT = re.compile(
    r"^[ \t]*(?:export[ \t]+|(?P<of_cmd>set[ \t]+)|\$env:|\$)?\"?(?P<name>\w+)[ \t]*=[ \t]*(?P<value>.+)$", re.I | re.M
)
"""`name=value` of bash, `$name = value` of PowerShell, `set name=value` of cmd, whose value reaches to the end of the line."""

OURS = ("train_network", "sdxl_train_network")
ENDS_COMMAND = ("&&", "||", "|", ";", "&")
NEXT_COMMAND = re.compile(r"\n(?=[A-Za-z@])")
"""A line that neither goes on with the one before nor is indented, nor begins with an option: `pause`, `deactivate`."""


@dataclass(frozen=True)
class TrainingCommand:
    """A call of a training script."""

    script: str
    """Its name without the folder and .py; "" where the text holds options alone."""
    launcher: list[str]
    """`accelerate launch` and its options; empty where it is started otherwise."""
    options: list[str]


def read_command(text: str) -> TrainingCommand:
    """The call of a training script in a text.

    Raises:
        UserError: there is none, or it is of a script that trains something else.
    """
    text = CONTINUED.sub(" ", COMMENT.sub("", text))
    values = _assigned(text)
    words = [_filled(word, values) for word in split_words(NEXT_COMMAND.sub(" ;\n", text))]
    places = [place for place, word in enumerate(words) if SCRIPT.search(word)]
    if not places and words and words[0].startswith("--"):
        return TrainingCommand("", [], _first_command(words))
    if not places:
        raise UserError(
            "no call of train_network.py or sdxl_train_network.py is in this text: expected a line such as "
            "`accelerate launch train_network.py --pretrained_model_name_or_path=... ...`, or its options alone."
        )
    place = places[0]
    match = SCRIPT.search(words[place])
    assert match is not None
    if match[1] not in OURS:
        raise UserError(
            f"{match[1]}.py trains something else: configs of train_network.py and sdxl_train_network.py, which train LoRAs of "
            "SD 1.x, SD 2.x and SDXL, can be read."
        )
    return TrainingCommand(match[1], _launcher(words[:place]), _first_command(words[place + 1 :]))


def split_words(text: str) -> list[str]:
    """Words of a command line. A backslash is itself, as in Windows' paths, but before a space or a quote, which it takes away from
    their meaning.

    Raises:
        UserError: a quote is never closed.
    """
    words: list[str] = []
    word, quote, begun = "", "", False
    place = 0
    while place < len(text):
        character, following = text[place], text[place + 1 : place + 2]
        if character == "\\" and quote != "'" and following in (" ", '"', "'") and not _closes(text, place, quote):
            word, begun, place = word + following, True, place + 1
        elif quote:
            quote = "" if character == quote else quote
            word += character if quote else ""
        elif character in "\"'":
            quote, begun = character, True
        elif character.isspace():
            words += [word] if begun else []
            word, begun = "", False
        else:
            word, begun = word + character, True
        place += 1
    if quote:
        raise UserError(f"a quotation mark {quote} is never closed, in: {word[:60]}")
    return [*words, word] if begun else words


def variables(words: list[str]) -> list[str]:
    """Variables and `$(commands)` of a shell in words, which only that shell could fill in."""
    return list(dict.fromkeys(found[0] for word in words for found in VARIABLE.finditer(word)))


def _assigned(text: str) -> dict[str, str]:
    """Variable -> value, as far as the text itself sets them: guides put what is to be changed at the top of a script."""
    values: dict[str, str] = {}
    for found in ASSIGNMENT.finditer(text):
        value = found["value"].strip()
        word = value.strip('"') if found["of_cmd"] else next(iter(split_words(value)), "")
        values[found["name"]] = _filled(word, values)
    return values


def _filled(word: str, values: Mapping[str, str]) -> str:
    """The word with variables replaced by their values; those without one stay."""
    return VARIABLE.sub(lambda found: values.get(found["name"] or found["of_cmd"], found[0]), word)


def _closes(text: str, place: int, quote: str) -> bool:
    """Whether the quote after this backslash ends a quoted path, as in "C:\\pictures\\" before another option or the end."""
    return bool(quote) and text[place + 1] == quote and re.match(r"\s*(?:--|$)", text[place + 2 :]) is not None


def _launcher(words: list[str]) -> list[str]:
    """`accelerate launch ...` at the end of what stands before the script; nothing where it is started otherwise."""
    places = [place for place, word in enumerate(words) if re.search(r"(?:^|[/\\])accelerate(?:\.exe)?$", word)]
    return ["accelerate", *words[places[-1] + 1 :]] if places else []


def _first_command(words: list[str]) -> list[str]:
    """Up to the sign that begins another command."""
    ends = [place for place, word in enumerate(words) if word in ENDS_COMMAND or word.startswith((">", "2>"))]
    return words[: ends[0]] if ends else words
