from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from library.config.options import describe_options, literal_value, parse_options
from library.config.schema.fields import option
from library.core.errors import UserError, UserErrors


@dataclass(frozen=True)
class Options:
    conv_dim: int | None = option(None, minimum=1)
    """Rank of the convolutions."""
    conv_alpha: float = option(1.0, minimum=0)
    """Their
    alpha."""
    betas: tuple[float, float] = (0.9, 0.999)
    block_dims: list[int] | None = None
    rates: tuple[float, ...] = ()
    shape: Literal["linear", "cosine"] = "linear"
    amsgrad: bool = False
    weights: str | list[float] = "zeros"
    name: str = "x"
    free: Any = None
    decay: float = option(0.0, aliases=("wd",), minimum=0, maximum=1)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("conv_dim", "4", 4),
        ("conv_dim", 4, 4),
        ("conv_dim", "None", None),
        ("conv_dim", "", None),
        ("conv_dim", 4.0, 4),
        ("conv_alpha", "1e-3", 1e-3),
        ("conv_alpha", 1, 1.0),
        ("betas", "0.9,0.99", (0.9, 0.99)),
        ("betas", "(0.9, 0.99)", (0.9, 0.99)),
        ("betas", [0.9, 0.99], (0.9, 0.99)),
        ("block_dims", "[1, 2, 3]", [1, 2, 3]),
        ("block_dims", "1,2,3", [1, 2, 3]),
        ("block_dims", 4, [4]),
        ("rates", "1", (1.0,)),
        ("shape", "cosine", "cosine"),
        ("amsgrad", "True", True),
        ("amsgrad", "false", False),
        ("amsgrad", 1, True),
        ("weights", "cosine+0.1", "cosine+0.1"),
        ("weights", "1,0.5", [1.0, 0.5]),
        ("weights", [1, 2], [1.0, 2.0]),
        ("name", "5", "5"),
        ("free", "[1, 'a']", [1, "a"]),
        ("free", "some text", "some text"),
        ("wd", "0.1", 0.1),
    ],
)
def test_values_take_the_annotated_type(name: str, value: object, expected: object) -> None:
    found = getattr(parse_options(Options, {name: value}, "network_args"), "decay" if name == "wd" else name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv_dim", "four", 'network_args: conv_dim = "four": expected a whole number.'),
        ("conv_dim", True, "conv_dim = true: expected a whole number"),
        ("conv_dim", 1.5, "conv_dim = 1.5: expected a whole number"),
        ("conv_dim", 0, "expected at least 1"),
        ("conv_alpha", "nan", "expected a number"),
        ("betas", "0.9", "expected a list of 2 values"),
        ("betas", ["a", 1], "each value is a number"),
        ("shape", "round", 'expected one of "linear", "cosine"'),
        ("amsgrad", "perhaps", "expected true or false"),
        ("name", 5, "expected text in quotes"),
        ("wd", 2, "expected a number from 0 to 1"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_is_allowed(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_options(Options, {name: value}, "network_args")
    assert message in str(error.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserErrors) as error:
        parse_options(Options, {"conv_dm": "4", "conv_alpha": "x", "decay": 0.1, "wd": 0.1}, "network_args")
    assert len(error.value.messages) == 3
    assert "Did you mean 'conv_dim'?" in error.value.messages[0]
    assert "given twice" in error.value.messages[2]


def test_a_field_without_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Needs:
        size: int

    with pytest.raises(UserError, match="'size' is missing"):
        parse_options(Needs, {}, "network_args")
    assert parse_options(Needs, {"size": "2"}, "network_args") == Needs(2)


def test_describe_options_shows_type_default_and_doc() -> None:
    lines = describe_options(Options).splitlines()
    assert lines[0] == "conv_dim (whole number, default None): Rank of the convolutions."
    assert lines[1] == "conv_alpha (number, default 1): Their alpha."
    assert lines[2] == "betas (list of numbers, default [0.9, 0.999])"


def test_literal_value_reads_what_text_spells() -> None:
    texts = ["1", "1e-3", "True", "false", "none", "(1, 2)", "abc", "0.9,0.99"]
    assert [literal_value(text) for text in texts] == [1, 1e-3, True, False, None, (1, 2), "abc", (0.9, 0.99)]
