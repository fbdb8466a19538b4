"""Ranks, alphas and learning rates by host and block."""

from __future__ import annotations

import math

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from library.lora_files.names.layouts import SD_KEYS, SDXL_KEYS
from networks.base import Rates
from networks.build import build_network, check_network
from networks.by_layer.rates import RateOptions, block_weights, parse_weights, shape_weights

RATES = Rates({"unet": 1e-3, "te1": 1e-4, "te2": 1e-5})


def build(model, seed=0, **config):
    return build_network(
        NetworkConfig(**{"network_dim": 8, "network_alpha": 4, **config}), model.hosts, model.family, seed
    )


def size(network, key):
    found = network.adapters[key].size
    return found.rank, found.alpha


def key(path):
    return "lora_unet_" + path.replace(".", "_")


def test_defaults(tiny):
    network = build(tiny())
    assert {size(network, name) for name in network.sites} == {(8, 4.0)}
    assert not any(site.kind == "conv3x3" for site in network.sites.values())


def test_alpha_zero_means_the_rank(tiny):
    network = build(tiny(), network_alpha=0, network_args={"conv_dim": 3, "conv_alpha": 0})
    assert {size(network, name) for name in network.sites} == {(8, 8), (3, 3)}


@pytest.mark.parametrize("name", ["rs_lora", "use_rslora"])
def test_rank_stabilised_scaling(tiny, disturb, name):
    network = build(tiny(), network_args={"conv_dim": 3, "conv_alpha": 1, name: "True"})
    disturb(network)
    saved = network.state_dict_to_save()
    for site_key, site in network.sites.items():
        alpha, rank = (1, 3) if site.kind == "conv3x3" else (4, 8)
        up, down, in_file = (saved[f"{site_key}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        change = (up.flatten(1) @ down.flatten(1)).view_as(site.module.weight)
        torch.testing.assert_close(network.delta(site_key), change * alpha / math.sqrt(rank), rtol=1e-4, atol=1e-7)
        assert float(in_file) / rank == pytest.approx(alpha / math.sqrt(rank))
    other = build(tiny(), network_args={"conv_dim": 3, "conv_alpha": 1, name: True}, seed=1)
    other.load_saved(saved)
    assert all(torch.equal(tensor, saved[tensor_name]) for tensor_name, tensor in other.state_dict_to_save().items())


def test_conv_dim_is_for_3x3_alone(tiny):
    network = build(tiny(), network_args={"conv_dim": "2", "conv_alpha": "0.5"})
    for name, site in network.sites.items():
        assert size(network, name) == ((2, 0.5) if site.kind == "conv3x3" else (8, 4.0))
    assert key("down_blocks.0.resnets.0.time_emb_proj") in network.sites
    assert size(build(tiny(), network_args={"conv_dim": 2}), key("down_blocks.0.resnets.0.conv1")) == (2, 1.0)


def test_block_dims(tiny):
    dims, alphas = [4] * 25, [2.0] * 25
    dims[1], dims[12], alphas[17] = 0, 6, 9.0
    conv_dims = [0] * 25
    conv_dims[3] = 5
    network = build(
        tiny(),
        network_args={"block_dims": dims, "block_alphas": alphas, "conv_block_dims": ",".join(map(str, conv_dims))},
    )
    for name, site in network.sites.items():
        if site.block is None:
            assert size(network, name) == (8, 4.0)
        elif site.kind == "conv3x3":
            assert site.block == 3 and size(network, name) == (5, 1.0)
        else:
            assert site.block != 1
            assert size(network, name) == ({12: 6}.get(site.block, 4), {17: 9.0}.get(site.block, 2.0))
    assert {site.block for site in network.sites.values()} >= {3, 12, 17}


@pytest.mark.parametrize(("family", "count"), [("sd1", 25), ("sdxl", 23)])
def test_block_lists_have_the_length_of_the_family(tiny, family, count):
    for name in ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas"):
        with pytest.raises(UserError, match=f"{name} has 7 values, but this model family has {count} blocks"):
            build(tiny(family), network_args={"conv_dim": 1, name: [1] * 7})


def test_only_one_kind_of_host(tiny):
    assert {site.host for site in build(tiny("sdxl"), network_train_unet_only=True).sites.values()} == {"unet"}
    assert {site.host for site in build(tiny("sdxl"), network_train_text_encoder_only=True).sites.values()} == {
        "te1",
        "te2",
    }


def test_groups_by_host(tiny):
    network = build(tiny("sdxl"))
    groups = {group.name: group for group in network.parameter_groups(RATES)}
    assert {name: group.lr for name, group in groups.items()} == {
        "unet": 1e-3,
        "textencoder1": 1e-4,
        "textencoder2": 1e-5,
    }
    assert sum(len(group.parameters) for group in groups.values()) == len(list(network.parameters()))
    [group] = build(tiny()).parameter_groups(Rates({"te1": 1e-4}))
    assert group.name == "textencoder"


def test_hosts_without_a_rate_are_frozen(tiny):
    network = build(tiny("sdxl"))
    [group] = network.parameter_groups(Rates({"unet": 1e-3, "te1": 0.0}))
    trained = {id(parameter) for parameter in group.parameters}
    assert all(parameter.requires_grad == (id(parameter) in trained) for parameter in network.parameters())
    network.parameter_groups(RATES)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_lora_plus(tiny):
    arguments = {"loraplus_lr_ratio": 16, "loraplus_text_encoder_lr_ratio": "4"}
    groups = build(tiny(), network_args=arguments).parameter_groups(RATES)
    rates = {group.name: group.lr for group in groups}
    assert rates == pytest.approx({"unet": 1e-3, "unet plus": 16e-3, "textencoder": 1e-4, "textencoder plus": 4e-4})
    plus = next(group for group in groups if group.name == "unet plus")
    assert all(not parameter.any() for parameter in plus.parameters)  # up, which starts at zero


def test_block_learning_rates(tiny):
    down = [0.5] * 12
    down[1] = 0.0
    network = build(tiny(), network_args={"down_lr_weight": down, "mid_lr_weight": "2", "conv_dim": 2})
    assert 1 not in {site.block for site in network.sites.values()}
    rates = {group.name: group.lr for group in network.parameter_groups(RATES)}
    blocks = {site.block for site in network.sites.values() if site.block is not None}
    expected = {f"unet_block{block}": 1e-3 * (2 if block == 12 else 0.5 if block < 12 else 1) for block in blocks}
    assert rates == pytest.approx({**expected, "textencoder": 1e-4})


def test_weights_by_block():
    def weights(blocks=SD_KEYS.blocks, **options):
        return block_weights(RateOptions(**options), blocks)

    assert weights() is None
    assert weights(mid_lr_weight=[3.0]) == [1.0] * 12 + [3.0] + [1.0] * 12
    assert weights(SDXL_KEYS.blocks, mid_lr_weight=[2.0, 3.0, 4.0]) == [1.0] * 10 + [2.0, 3.0, 4.0] + [1.0] * 10
    assert weights(down_lr_weight=[0.1, 0.5], block_lr_zero_threshold=0.2)[:4] == [0.0, 0.5, 1.0, 1.0]
    assert weights(up_lr_weight=[0.5] * 99) == [1.0] * 13 + [0.5] * 12
    assert weights(up_lr_weight="zeros+.25")[13:] == [0.25] * 12


def test_shapes():
    assert shape_weights("linear", 5) == [0, 0.25, 0.5, 0.75, 1]
    assert shape_weights("reverse_linear", 5) == [1, 0.75, 0.5, 0.25, 0]
    assert shape_weights("sine", 3) == pytest.approx([0, math.sqrt(0.5), 1])
    assert shape_weights("cosine", 3) == pytest.approx([1, math.sqrt(0.5), 0])
    assert shape_weights("zeros", 2) == [0, 0]


def test_how_weights_may_be_written():
    assert parse_weights("0,,1.5") == [0.0, 0.0, 1.5]
    assert parse_weights("0.5") == [0.5]
    assert parse_weights([1, 2]) == [1.0, 2.0]
    assert parse_weights(" cosine+.25") == "cosine+.25"
    for wrong in ("cosin", "cosine+x", "1,b", [None]):
        with pytest.raises(ValueError, match="list of numbers"):
            parse_weights(wrong)


def test_unknown_options_are_named(tiny):
    with pytest.raises(UserError, match=r"unknown option 'conv_dims'\. Did you mean 'conv_dim'"):
        build(tiny(), network_args={"conv_dims": 4})
    with pytest.raises(UserError, match=r"2 problems(.|\n)*rank_dropout"):
        build(tiny(), network_args={"conv_dims": 4, "rank_dropout": 1.5})


def test_continue_from_a_file(tiny, disturb, tmp_path):
    arguments = {"block_dims": [2 + block % 3 for block in range(25)], "conv_dim": 2, "conv_alpha": 3}
    first = tiny()
    network = build(first, network_args=arguments)
    disturb(network)
    acting = first.predict()
    save_lora(tmp_path / "a.safetensors", network.state_dict_to_save(), {})
    file = str(tmp_path / "a.safetensors")

    same, other = tiny(), tiny()
    build(same, network_args=arguments, network_weights=file)
    assert torch.equal(same.predict(), acting)
    taken = build(other, network_weights=file, dim_from_weights=True)
    assert torch.equal(other.predict(), acting)
    assert taken.metadata()["ss_network_dim"] in ("2", "3", "4") and taken.metadata()["ss_network_alpha"] == "4.0"
    assert {name: size(taken, name) for name in taken.sites} == {name: size(network, name) for name in network.sites}

    with pytest.raises(UserError, match="ranks are taken from the file"):
        build(tiny(), network_args={"conv_dim": 2}, network_weights=file)
    with pytest.raises(UserError, match=r"not in the network.*conv_dim.*dim_from_weights"):
        build(tiny(), network_weights=file)


def test_metadata_names_the_network(tiny):
    network = build(tiny(), network_args={"conv_dim": 2}, network_dropout=0.1)
    assert network.metadata() == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "8",
        "ss_network_alpha": "4",
        "ss_network_dropout": "0.1",
        "ss_network_args": '{"conv_dim": 2}',
    }


def test_checks_without_a_model(tmp_path):
    check_network(NetworkConfig(network_args={"conv_dim": "4", "rank_dropout": "0.1"}))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for config, message in (
        ({"network_module": "networks.lara"}, r"Did you mean 'networks\.lora'"),
        ({"network_args": {"conv": 4}}, "unknown option 'conv'"),
        ({"network_weights": str(tmp_path / "broken.safetensors")}, "cannot be read"),
        ({"base_weights": [str(tmp_path / "absent.safetensors")]}, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            check_network(NetworkConfig(**config))


@pytest.mark.parametrize(
    "module", ["networks.oft", "networks.boft", "networks.ia3", "networks.hra", "networks.peft.hira"]
)
def test_rank_stabilised_scaling_is_refused_where_alpha_scales_nothing(module):
    with pytest.raises(UserError, match=f"rs_lora has no meaning for {module}"):
        check_network(NetworkConfig(network_module=module, network_args={"rs_lora": True}))


def test_lora_plus_without_anything_to_speed_up_is_told(caplog):
    args = {"loraplus_unet_lr_ratio": 16}
    check_network(NetworkConfig(network_module="networks.loha", network_args=args))
    assert not caplog.messages
    check_network(NetworkConfig(network_module="networks.oft", network_args=args))
    assert "LoRA+" in caplog.text and "networks.oft" in caplog.text


def test_dim_from_weights_tells_of_sizes_that_do_not_count(tiny, tmp_path, caplog):
    file = tmp_path / "a.safetensors"
    save_lora(file, build(tiny()).state_dict_to_save(), {})
    given = {"conv_dim": 4, "rs_lora": True, "exclude_patterns": [".*to_q"], "network_reg_lrs": {".*to_k": 1e-5}}
    check_network(NetworkConfig(network_weights=str(file), network_args=given))
    assert not caplog.messages
    check_network(NetworkConfig(network_weights=str(file), dim_from_weights=True, network_args=given))
    [told] = caplog.messages
    assert "conv_dim, rs_lora, exclude_patterns without effect" in told


def test_dim_from_weights_of_another_network_is_refused(tiny, tmp_path):
    file = tmp_path / "a.safetensors"
    save_lora(file, build(tiny(), network_module="networks.loha").state_dict_to_save(), {})
    with pytest.raises(UserError, match=r"is no file of networks\.lora; .*hada_w1_a.* Set network_module"):
        build(tiny(), network_weights=str(file), dim_from_weights=True)
