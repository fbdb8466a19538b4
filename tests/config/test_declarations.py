from __future__ import annotations

from dataclasses import MISSING, fields
from typing import get_type_hints

from library.config.catalog import by_any_name, catalog, declarations
from library.config.field_docs import field_docs
from library.config.reference import PAGE, reference_page
from library.config.schema import Config
from library.config.schema.data import SubsetConfig
from library.config.spellings import FLAGS, GUI_EXTRAS, IMPLIED, NEEDLESS, OF_OTHER_FAMILIES, ONLY_VALUE, REFUSED

GROUPS = get_type_hints(Config)


def test_keys_and_aliases_are_unique_over_all_groups() -> None:
    names = [
        name
        for group_type in GROUPS.values()
        for declared in declarations(group_type).values()
        for name in (declared.key, *declared.aliases)
    ]
    assert len(names) == len(set(names))


def test_every_option_and_group_is_documented() -> None:
    for group_type in (*GROUPS.values(), SubsetConfig):
        docs = field_docs(group_type)
        assert group_type.__doc__
        assert [field.name for field in fields(group_type) if not docs.get(field.name)] == []


def test_every_default_fits_its_own_declaration() -> None:
    for declared in catalog().values():
        assert declared.field.default is not MISSING or declared.field.default_factory is not MISSING
        if declared.default is not None:
            assert declared.convert(declared.default) == declared.default, declared.key


def test_other_names_stand_for_options_and_clash_with_none() -> None:
    known = by_any_name(catalog())
    foreign = [*FLAGS, *GUI_EXTRAS, *NEEDLESS, *REFUSED, *ONLY_VALUE, *OF_OTHER_FAMILIES]
    assert len(foreign) == len(set(foreign))
    assert not known.keys() & set(foreign)
    assert all(catalog()[key].convert(value) == value for key, value in FLAGS.values())
    assert all(key in catalog() and implied in catalog() for key, implied in IMPLIED.items())


def test_the_reference_page_is_current() -> None:
    page = reference_page()
    assert PAGE.read_text(encoding="utf-8") == page, "run: python -m library.config.reference"
    assert all(f"| `{key}` |" in page for key in catalog())
