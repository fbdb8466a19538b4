"""Where the weights lie that a LoRA file can change, told from names and shapes alone."""

from __future__ import annotations

import pytest
import torch

from library.core.errors import UserError
from library.lora_files.names.keys import sites
from library.models.published import recipe
from library.models.random_weights import empty_modules
from library.models.rewriting.site_finder import SiteFinder
from library.models.rewriting.stored_places import HOSTS, open_model, published_places, stored_places, weight_files
from tests.models.conftest import FAMILIES


@pytest.mark.parametrize("layout", ["folder", "file"])
@pytest.mark.parametrize("family", FAMILIES)
def test_are_the_sites_of_the_loaded_model_with_its_weights(tiny, load, family, layout):
    checkpoint, recognised = open_model(str(tiny(family, layout)), "--into")
    places = stored_places(checkpoint, recognised)
    model = load(tiny(family, layout))
    for conv in (False, True):
        expected = sites(model.hosts(["unet", "text_encoders"]), recognised, conv)
        found = {
            key
            for key, each in places.items()
            if each.place.scope in (("attention", "conv") if conv else ("attention",))
        }
        assert found == {site.key for site in expected}
    for site in expected:
        place = places[site.key].place
        assert torch.equal(places[site.key].read(), site.module.weight)
        assert (place.host, place.block, place.site().kind, place.name) == (site.host, site.block, site.kind, site.name)


@pytest.mark.parametrize(("family", "name"), [("sd1", "sd15"), ("sd2", "sd2"), ("sdxl", "sdxl")])
def test_published_models_have_the_sites_of_their_modules(family, name):
    modules = empty_modules(recipe(name))
    hosts = {HOSTS[component]: module for component, module in modules.items() if component in HOSTS}
    expected = {site.key: tuple(site.module.weight.shape) for site in sites(hosts, family, conv=True)}
    found = {key: place.shape for key, place in published_places(family).items() if place.scope != "other"}
    assert found == expected


def test_a_fused_tensor_is_changed_through_its_parts(tiny):
    checkpoint, family = open_model(str(tiny("sdxl", "file")), "--into")
    places = stored_places(checkpoint, family)
    parts = [places[f"lora_te2_text_model_encoder_layers_0_self_attn_{which}_proj"] for which in "qkv"]
    assert len({part.stored.key for part in parts}) == 1
    fused = torch.zeros(parts[0].stored.shape)
    for number, part in enumerate(parts):
        part.weight(fused).add_(number + 1)
    width = parts[0].place.shape[0]
    assert fused[::width, 0].tolist() == [1.0, 2.0, 3.0]


def test_weight_files_are_those_of_the_model(tiny):
    assert weight_files(open_model(str(tiny("sd15", "file")), "--into")[0]) == [tiny("sd15", "file")]
    folder = tiny("sd15", "folder")
    assert {file.parent.name for file in weight_files(open_model(str(folder), "--into")[0])} == {
        "unet",
        "vae",
        "text_encoder",
    }


def test_without_a_model_a_site_has_no_numbers(tiny):
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert SiteFinder(None, "sd1")(key).module.weight.isnan().all()
    assert SiteFinder(str(tiny("sd15", "file")), "sd1")(key).module.weight.isfinite().all()
    with pytest.raises(UserError, match="has no lora_unet_x"):
        SiteFinder(None, "sd1")("lora_unet_x")
    with pytest.raises(UserError, match="is a model of the family sd1; the LoRAs are for sdxl"):
        SiteFinder(str(tiny("sd15", "file")), "sdxl")(key)
