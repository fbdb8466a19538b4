"""network_args of sd-scripts' own networks: each is an option of ours of the same name, or said to be needless."""

from __future__ import annotations

from typing import Any

import pytest

from library.config.catalog import by_any_name, declarations
from library.config.sd_scripts.facts import facts
from library.config.spellings import NEEDLESS_NETWORK_ARGS
from library.core.registry import NETWORKS
from networks.build import SHARED, find_plugin
from networks.options import joined

ARGUMENTS = facts()["network_args"]


@pytest.mark.parametrize("module", ARGUMENTS)
def test_every_argument_is_understood(module: str) -> None:
    assert module in NETWORKS.names()
    plugin: Any = find_plugin(module)
    understood = by_any_name(declarations(joined((*SHARED, plugin.Options))))
    assert [name for name in ARGUMENTS[module] if name not in understood and name not in NEEDLESS_NETWORK_ARGS] == []
