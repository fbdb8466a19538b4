"""What strangers may put into files, and what has to come of it.

The suite tries a few dozen inputs a parser, always the same ones. For a search by hand, with new inputs each time:

    FUZZ_EXAMPLES=5000 pytest tests/fuzz
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from library.core.errors import UserError
from library.core.terminal import harmless

WANTED = os.environ.get("FUZZ_EXAMPLES")


def fuzzed(examples: int) -> settings:
    """Bounded in the suite, searching by hand."""
    by_hand = WANTED is not None
    return settings(
        max_examples=int(WANTED) if WANTED is not None else examples,
        derandomize=not by_hand,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink) if by_hand else (Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )


def outcome(parse: Callable[[], Any], *named: str) -> Any:
    """What the parser gives, or the error that it tells; any other error, and an error that cannot be shown, is a failure.

    Args:
        named: what the error must name.
    """
    try:
        return parse()
    except UserError as error:
        message = str(error)
        assert message == harmless(message)
        assert message.encode("utf-8").strip()
        assert all(name in message for name in named), message[:500]
        return error


PECULIAR = [
    "", " ", "\0", "a\0b", "\ud800", "\x1b[2J\x1b[31m", "\u202egnp", "\u2028", "\x85", "\r\n", "\ufeff", "\x7f", "😀", "ﬁ", "²", "٣",
    "../../x", "/etc/passwd", "/dev/zero", "C:\\x", "~", "~nobody-of-that-name/x", ".", "..", "/", "//", "a" * 5000, "é" * 200,
    "9" * 30, "9" * 5000, "-1", "1e999", "nan", "inf", "-0.0", "0x10", "1_000", "None", "none", "true", "???", "${", "${output_name}",
    "${network_dim}", "\\" * 3000 + "${x}", "{a|b", "{{", "}}", "((", "[1,[2", "--", "--n", "=", "a=b=c", "a.b.c", "a" + ".a" * 100,
    "os.system", "__main__.x", "networks.lora.", "<script>alert(1)</script>", "%s%n", "'", '"', '"""', "'''", "#", "\n", "\t",
]  # fmt: skip
TEXT = st.sampled_from(PECULIAR) | st.text(max_size=20) | st.lists(st.sampled_from(PECULIAR), max_size=4).map("".join)
NUMBERS = (
    st.sampled_from([0, 1, -1, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, -(10**30), 10**400])
    | st.integers(-3, 3000)
    | st.sampled_from([0.0, -0.0, 0.5, 1.5, 1e308, -1e308, 5e-324, float("inf"), float("nan")])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)
NESTED = st.integers(1, 3000).map(lambda depth: "[" * depth + "]" * depth)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file after what happens to files: cut short, bytes flipped, parts lost, doubled, moved or written over."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        first, second = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        kind = draw(st.sampled_from(["cut", "flip", "lose", "double", "write", "swap"]))
        if kind == "cut":
            data = data[:second]
        elif kind == "flip" and data:
            at = min(first, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
        elif kind == "lose":
            data = data[:first] + data[second:]
        elif kind == "double":
            data = data[:second] + data[first : first + 2000] + data[second:]
        elif kind == "write":
            data = data[:first] + draw(st.binary(max_size=8) | TEXT.map(_bytes)) + data[first:]
        else:
            data = data[second:] + data[:second]
    return data


def damaged_text(whole: str) -> st.SearchStrategy[str]:
    """The same of a text; it need not be UTF-8 any more."""
    return damaged(whole.encode()).map(lambda data: data.decode("utf-8", "surrogateescape"))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def as_json(value: Any) -> str:
    """JSON as Python writes it: with NaN, Infinity and halves of characters."""
    return json.dumps(value)


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header.

    Args:
        header: to be written as JSON; bytes are taken as they are.
        length: that the file claims for its header.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@st.composite
def odd_header(draw: st.DrawFn, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A header in which some entries have another name, type, shape or place, or are gone; most hang together all the same."""
    changed: dict[str, Any] = {}
    begin = 0
    for name, entry in entries.items():
        kind = draw(st.sampled_from(["keep"] * 6 + ["drop", "rename", "type", "shape", "empty", "offsets", "any"]))
        if kind == "drop":
            continue
        dtype, shape = entry["dtype"], list(entry["shape"])
        if kind == "rename":
            name = draw(
                TEXT | st.sampled_from([name + "x", name.replace(".0.", ".99999999."), name.rpartition(".")[0]])
            )
        elif kind == "type":
            dtype = draw(
                st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "U16", "BOOL", "F8_E4M3", "C64", "F4", "X"])
            )
        elif kind == "shape":
            shape = draw(st.permutations(shape) | st.lists(st.integers(0, 5), max_size=5))
        elif kind == "empty":
            shape = draw(st.sampled_from([[], [0], [0, 2**62], [2**40, 0], [1] * 70]))
        size = SIZES.get(dtype, 1)
        for side in shape:
            size *= side
        end = begin + size
        changed[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        if kind == "offsets":
            changed[name]["data_offsets"] = draw(st.lists(st.sampled_from([0, 4, 2**60, 2**64, -1, 1.5]), max_size=3))
        elif kind == "any":
            changed[name] = draw(VALUES)
        begin = end
    if draw(st.booleans()):
        changed["__metadata__"] = draw(st.dictionaries(TEXT, TEXT | VALUES, max_size=3) | VALUES)
    return changed


SIZES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "U16": 2, "C64": 8}


def room_for(header: dict[str, Any], most: int = 1 << 20) -> bytes:
    """As many zeros as a header asks for, within reason."""
    ends = [
        entry["data_offsets"][1]
        for entry in header.values()
        if isinstance(entry, dict) and len(entry.get("data_offsets", ())) == 2
    ]
    end = max((end for end in ends if isinstance(end, int)), default=0)
    return bytes(end) if 0 <= end <= most else b""
