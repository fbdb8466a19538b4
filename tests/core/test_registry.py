"""Plugins are found by name, lazily, and what is not found is told of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from library.core import registry
from library.core.errors import UserError
from library.core.registry import Registry

Write = Callable[[str, str], None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """`module("dojo_pets.cat", "class Cat: ...")`: an importable module of that path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(path: str, source: str) -> None:
        file = tmp_path.joinpath(*path.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source, encoding="utf-8")
        importlib.invalidate_caches()

    yield write
    for name in [name for name in set(sys.modules) - before if name.startswith("dojo_")]:
        del sys.modules[name]


@pytest.fixture
def pets() -> Registry:
    return Registry("pet", {"cat": "dojo_pets.cat:Cat", "dog": "dojo_pets.dog:Dog"}, "lora_dojo.tests.pets")


def test_a_registered_class_is_found_and_unchanged(pets: Registry) -> None:
    class Hamster:
        pass

    assert pets.register("hamster")(Hamster) is Hamster
    assert pets.get("hamster") is Hamster
    assert pets.names() == ["cat", "dog", "hamster"]


def test_a_registered_name_goes_before_a_builtin_one(pets: Registry) -> None:
    mine = pets.register("cat")(object())
    assert pets.get("cat") is mine
    assert pets.names() == ["cat", "dog"]


def test_a_builtin_is_imported_when_it_is_asked_for(pets: Registry, module: Write) -> None:
    module("dojo_pets.cat", "class Cat: pass")
    module("dojo_pets.dog", "raise RuntimeError('nobody asked for the dog')")
    assert pets.names() == ["cat", "dog"]
    assert "dojo_pets.cat" not in sys.modules
    assert pets.get("cat").__name__ == "Cat"
    assert "dojo_pets.dog" not in sys.modules


def test_a_dotted_path_names_a_class_or_a_module(pets: Registry, module: Write) -> None:
    module("dojo_zoo.lion", "class Lion: pass")
    assert pets.get("dojo_zoo.lion.Lion").__name__ == "Lion"
    found = pets.get("dojo_zoo.lion")
    assert isinstance(found, ModuleType)
    assert found.Lion is pets.get("dojo_zoo.lion.Lion")


def test_a_plain_name_may_be_a_module_beside_the_config(pets: Registry, module: Write) -> None:
    module("dojo_parrot", "class Parrot: pass")
    assert isinstance(pets.get("dojo_parrot"), ModuleType)


def test_a_module_that_registers_its_class_under_its_own_path_stands_for_the_class(
    pets: Registry, module: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "TEST_PETS", pets, raising=False)
    module(
        "dojo_fish",
        "from library.core.registry import TEST_PETS\n@TEST_PETS.register('dojo_fish')\nclass Fish: pass\n",
    )
    assert pets.get("dojo_fish").__name__ == "Fish"
    assert pets.get("dojo_fish").__name__ == "Fish", "also when it is imported already"


@pytest.fixture
def package(tmp_path: Path, module: Write) -> Write:
    """`package("snake", "class Snake: ...")`: an installed package `dojo_snake` that offers the pet `snake`, its class `Snake`."""

    def install(name: str, source: str) -> None:
        module(f"dojo_{name}", source)
        folder = tmp_path / f"dojo_{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dojo-{name}\nVersion: 1.0\n", encoding="utf-8")
        offered = f"[lora_dojo.tests.pets]\n{name} = dojo_{name}:{name.title()}\n"
        (folder / "entry_points.txt").write_text(offered, encoding="utf-8")

    return install


def test_an_installed_package_offers_names(pets: Registry, package: Write) -> None:
    package("snake", "class Snake: pass")
    assert pets.names() == ["cat", "dog", "snake"]
    assert pets.get("snake").__name__ == "Snake"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import dojo_package_that_nobody_has",
            "needs the module 'dojo_package_that_nobody_has', which is not installed",
        ),
        ("from json import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("class Adder: pass", "AttributeError: module 'dojo_snake' has no attribute 'Snake'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_installed_package_that_cannot_be_imported_is_told_of(
    pets: Registry, package: Write, source: str, said: str
) -> None:
    package("snake", source)
    with pytest.raises(UserError, match=r"dojo_snake:Snake \(pet snake of an installed package\)") as caught:
        pets.get("snake")
    assert said in str(caught.value)


@pytest.mark.parametrize("source", ["import dojo_package_that_nobody_has", "from json import no_such_name"])
def test_a_builtin_that_cannot_be_imported_is_told_of(pets: Registry, module: Write, source: str) -> None:
    module("dojo_pets.cat", source)
    with pytest.raises(UserError, match=r"importing 'dojo_pets.cat' failed: .*(nobody_has|no_such_name)"):
        pets.get("cat")


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_ones(pets: Registry) -> None:
    with pytest.raises(UserError) as caught:
        pets.get("catt")
    for said in ("unknown pet 'catt'", "Did you mean 'cat'?", "cat, dog"):
        assert said in str(caught.value)


@pytest.mark.parametrize("path", ["dojo_zoo.lion.Tiger", "dojo_zoo.tiger.Tiger", "dojo_nowhere.at.all"])
def test_a_path_that_leads_nowhere_is_refused(pets: Registry, module: Write, path: str) -> None:
    module("dojo_zoo.lion", "class Lion: pass")
    with pytest.raises(UserError, match="cannot be imported") as caught:
        pets.get(path)
    assert f"'{path}'" in str(caught.value)


@pytest.mark.parametrize("path", ["dojo_needy", "dojo_needy.Needy", "dojo_farm.needy"])
def test_a_module_whose_own_import_fails_names_what_is_missing(pets: Registry, module: Write, path: str) -> None:
    for name in ("dojo_needy", "dojo_farm.needy"):
        module(name, "import dojo_package_that_nobody_has\nclass Needy: pass")
    with pytest.raises(UserError, match=r"dojo_package_that_nobody_has.*not installed"):
        pets.get(path)


def test_an_error_inside_a_module_is_shown_as_it_is(pets: Registry, module: Write) -> None:
    module("dojo_broken", "1 / 0")
    with pytest.raises(ZeroDivisionError):
        pets.get("dojo_broken")


@pytest.mark.parametrize(
    "known", [registry.NETWORKS, registry.SCHEDULES, registry.MODEL_FAMILIES, registry.LOSS_WEIGHTINGS]
)
def test_every_builtin_name_leads_to_something(known: Registry) -> None:
    assert known.names()
    assert all(callable(known.get(name)) for name in known.names())
