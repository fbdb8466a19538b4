"""Blocks of the full-size models: their names, the page about them, and B-LoRA, which trains two of them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import pytest
import torch

from library.config.places import PRESETS, PROJECT_ROOT
from library.config.schema.layers import parse_layers
from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.names.keys import sites
from library.lora_files.names.layouts import SD_KEYS, SDXL_KEYS
from library.models.published import recipe
from library.models.random_weights import empty_modules
from networks.build import build_network
from tests.networks.built import config, sizes

COMPONENTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}


@pytest.fixture(scope="module")
def full_size():
    """Hosts of the published models, without their weights."""
    modules = {family: empty_modules(recipe(name)) for family, name in (("sd1", "sd15"), ("sdxl", "sdxl"))}
    return {
        family: {host: found[part] for host, part in COMPONENTS.items() if part in found}
        for family, found in modules.items()
    }


def test_labels_of_blocks():
    assert [SD_KEYS.blocks.label(index) for index in (0, 1, 11, 12, 13, 24)] == [
        "IN00",
        "IN01",
        "IN11",
        "M00",
        "OUT00",
        "OUT11",
    ]
    assert [SDXL_KEYS.blocks.label(index) for index in (0, 1, 9, 10, 12, 13, 21, 22)] == [
        "", "IN00", "IN08", "M00", "M00", "OUT00", "OUT08", ""
    ]  # fmt: skip


def test_full_size_counts(full_size):
    network = build_network(config({"match": "attn2", "dim": 2}), full_size["sd1"], "sd1", seed=0)
    ranks = [rank for rank, _ in sizes(network).values()]
    assert (len(ranks), ranks.count(2)) == (192 + 72, 16 * 4)
    found = build_network(
        replace(config({"match": "OUT00-OUT02 ff", "dim": 2}), network_train_unet_only=True),
        full_size["sdxl"],
        "sdxl",
        0,
    )
    ranks = [rank for rank, _ in sizes(found).values()]
    assert (len(ranks), ranks.count(2)) == (722, 3 * 10 * 2)


def preset(name):
    """A B-LoRA preset's network, at a rank that fits the tiny models."""
    tables = tomllib.loads((PRESETS / f"networks/{name}.toml").read_text(encoding="utf-8"))
    return NetworkConfig(
        network_layers=parse_layers(tables["network_layers"]),
        network_train_unet_only=tables["network_train_unet_only"],
    )


@pytest.mark.parametrize(("name", "blocks"), [("b_lora_content", "0"), ("b_lora_style", "1"), ("b_lora", "01")])
def test_b_lora_acts_on_its_blocks_alone(full_size, name, blocks):
    network = build_network(preset(name), full_size["sdxl"], "sdxl", seed=0)
    depth, parts = 10, [f"attn{n}_to_{part}" for n in (1, 2) for part in ("q", "k", "v", "out_0")]
    inside = [f"transformer_blocks_{n}_{part}" for n in range(depth) for part in [*parts, "ff_net_0_proj", "ff_net_2"]]
    assert set(network.sites) == {
        f"lora_unet_output_blocks_{block}_1_{part}" for block in blocks for part in ["proj_in", "proj_out", *inside]
    }
    assert {site.path.split(".transformer")[0].split(".proj")[0] for site in network.sites.values()} == {
        f"up_blocks.0.attentions.{block}" for block in blocks
    }
    assert set(sizes(network).values()) == {(64, 64.0)}


def test_content_and_style_do_not_touch_the_same_layers(tiny, disturb, tmp_path):
    character, style = (
        build_network(preset(name), tiny("sdxl").hosts, "sdxl", seed=1) for name in ("b_lora_content", "b_lora_style")
    )
    assert character.sites and style.sites and not character.sites.keys() & style.sites.keys()
    for network in (character, style):
        disturb(network)
    together = tiny("sdxl")
    both = build_network(preset("b_lora"), together.hosts, "sdxl", seed=2)
    both.load_saved(character.state_dict_to_save() | style.state_dict_to_save())
    apart = tiny("sdxl")
    for name, saved in (("b_lora_content", character), ("b_lora_style", style)):
        build_network(preset(name), apart.hosts, "sdxl", seed=3).load_saved(saved.state_dict_to_save())
    assert torch.equal(together.predict(), apart.predict())
    assert not torch.equal(together.predict(), tiny("sdxl").predict())


@pytest.mark.parametrize("name", ["b_lora", "b_lora_content", "b_lora_style"])
def test_b_lora_is_for_sdxl(full_size, name):
    with pytest.raises(
        UserError, match=r"fits 'unet\.up_blocks\.0\.attentions\.\d'\. Only the UNet of SDXL has attention there"
    ):
        build_network(preset(name), full_size["sd1"], "sd1", seed=0)


@pytest.mark.parametrize(("family", "layout", "count"), [("sd1", SD_KEYS, 24), ("sdxl", SDXL_KEYS, 18)])
def test_the_tables_of_the_page_are_true(full_size, family, layout, count):
    text = (PROJECT_ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    part = text.split("\nSDXL:\n")[family == "sdxl"]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in part.splitlines()
        if re.match(r"\| (IN|M|OUT)\d\d ", line)
    ]
    everything = sites({"unet": full_size[family]["unet"]}, family, conv=True)
    usual = {site.key for site in sites({"unet": full_size[family]["unet"]}, family, conv=False)}
    assert len(rows) == len({row[0] for row in rows}) == count
    counted = 0
    for label, paths, *original, indices, layers, resnets in rows:
        inside = [
            site
            for site in everything
            if any(site.path.startswith(f"{path}.") for path in re.findall("`(.*?)`", paths))
        ]
        numbers = [int(number) for number in indices.split("-")]
        assert {layout.blocks.label(site.block) for site in inside} == {label}
        assert {site.block for site in inside} == set(range(numbers[0], numbers[-1] + 1))
        assert all(site.name.startswith(f"{name.strip('`')}.") for site in inside for name in original)
        assert [len([site for site in inside if (site.key in usual) == kind]) for kind in (True, False)] == [
            int(layers), int(resnets)
        ]  # fmt: skip
        counted += len(inside)
    assert counted == len(everything)
