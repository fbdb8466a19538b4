from __future__ import annotations

import pytest

from library.generation.templates import filled, template_mistake


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{a}, {b}", "one, two"),
        ("{a} in {b}", "one in two"),
        ("{none}, {a}, ,{b}, {none}", "one, two"),
        ("{{{a}|x}}, {b}", "{one|x}, two"),
        ("  {a} \n {b}", "one two"),
    ],
)
def test_fields_are_filled_and_empty_parts_dropped(template: str, expected: str) -> None:
    assert filled(template, {"a": "one", "b": "two", "none": ""}) == expected


@pytest.mark.parametrize(
    ("template", "mistake"),
    [
        ("{a}, {{x}}", ""),
        ("{pos}", "has the unknown field {pos}. Did you mean 'pose'? Fields: a, pose."),
        ("{}", "has the unknown field {}."),
        ("{a", "has a brace without its partner"),
        ("a}", "has a brace without its partner"),
        ("{a:>9}", "has more than a name"),
        ("{a!r}", "has more than a name"),
        ("{a.__class__}", "has the unknown field"),
    ],
)
def test_mistakes_in_templates(template: str, mistake: str) -> None:
    found = template_mistake(template, ["a", "pose"])
    assert found.startswith(mistake) and bool(found) == bool(mistake)
