from __future__ import annotations

from typing import Any, Literal

import pytest

from library.core.errors import UserError
from library.optim.arguments import parse_arguments


def target(
    params: object,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay=0,
    steps: int = 3,
    nesterov: bool = False,
    kind: Literal["one", "two"] = "one",
    floor: float | None = None,
) -> None:
    """What arguments are checked against."""


def parse(**given: Any) -> dict[str, Any]:
    return parse_arguments(target, given, "optimizer_args", supplied=("params", "lr"))


def test_text_becomes_the_type_of_the_parameter() -> None:
    given = parse(betas="0.8,0.9", weight_decay="0.01", steps="5", nesterov="True", kind="two", floor="1e-3")
    assert given == {
        "betas": (0.8, 0.9),
        "weight_decay": 0.01,
        "steps": 5,
        "nesterov": True,
        "kind": "two",
        "floor": 1e-3,
    }


def test_only_what_was_given_is_passed_on() -> None:
    assert parse() == {}
    assert parse(floor="None") == {"floor": None}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"weight_decya": 0.1}, "weight_decay"),
        ({"nesterov": "perhaps"}, "nesterov"),
        ({"kind": "three"}, "kind"),
        ({"lr": 1.0}, "lr"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=f"optimizer_args.*{named}"):
        parse(**given)


def test_what_takes_anything_gets_the_literals() -> None:
    def anything(params: object, lr: float, momentum: float = 0.0, **rest: Any) -> None: ...

    given = parse_arguments(
        anything, {"momentum": "0.5", "depth": "3", "mode": "deep"}, "optimizer_args", ("params", "lr")
    )
    assert given == {"momentum": 0.5, "depth": 3, "mode": "deep"}


def test_a_missing_argument_is_named() -> None:
    def needs(params: object, lr: float, rank: int) -> None: ...

    with pytest.raises(UserError, match="'rank' is missing"):
        parse_arguments(needs, {}, "optimizer_args", ("params", "lr"))
