"""LoRA files put onto a model, several at a time, and merged into it."""

from __future__ import annotations

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.file import save_lora
from networks.build import build_network
from networks.files.apply import apply_lora
from networks.files.merge import merge_base_weights, merge_lora


@pytest.fixture
def files(tiny, disturb, tmp_path):
    """Two LoRA files for the tiny SD, of different scope and rank."""
    paths = []
    for number, config in enumerate(
        [NetworkConfig(network_dim=2), NetworkConfig(network_dim=3, network_args={"conv_dim": 2})]
    ):
        network = build_network(config, tiny().hosts, "sd1", seed=number)
        disturb(network, 0.2)
        paths.append(tmp_path / f"{number}.safetensors")
        save_lora(paths[-1], network.state_dict_to_save(), network.metadata())
    return paths


def test_several_at_their_strengths_act_as_merged_one_after_the_other(tiny, files):
    applied, merged = tiny(), tiny()
    frozen = applied.predict()
    networks = [apply_lora(file, applied.hosts, "sd1", strength) for file, strength in zip(files, (0.5, -0.8))]
    merge_base_weights(
        NetworkConfig(base_weights=[str(file) for file in files], base_weights_multiplier=[0.5, -0.8]),
        merged.hosts,
        "sd1",
    )
    torch.testing.assert_close(applied.predict(), merged.predict(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(applied.encode("te1"), merged.encode("te1"), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(applied.predict(), frozen, atol=1e-3)
    assert not any(parameter.requires_grad for network in networks for parameter in network.parameters())
    for network in reversed(networks):
        network.detach()
    assert torch.equal(applied.predict(), frozen)
    assert not any("forward" in vars(module) for host in applied.hosts.values() for module in host.modules())


def test_multipliers_left_out_are_one(tiny, files):
    listed, single = tiny(), tiny()
    merge_base_weights(NetworkConfig(base_weights=[str(files[0])]), listed.hosts, "sd1")
    merge_lora(files[0], single.hosts, "sd1")
    assert torch.equal(listed.predict(), single.predict())


def test_files_for_something_else_leave_the_model_as_it_was(tiny, files, tmp_path):
    model = tiny("sdxl")
    frozen = model.predict()
    with pytest.raises(UserError, match=r"0\.safetensors is not for this model \(sdxl\)"):
        apply_lora(files[0], model.hosts, "sdxl")
    assert torch.equal(model.predict(), frozen)
    save_lora(tmp_path / "flux.safetensors", {"transformer.single_blocks.0.lora_A.weight": torch.zeros(2, 3)}, {})
    with pytest.raises(UserError, match=r"flux\.safetensors: it is a LoRA of another model than Stable Diffusion"):
        apply_lora(tmp_path / "flux.safetensors", model.hosts, "sdxl")
    save_lora(tmp_path / "dora.safetensors", {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 32, 1, 1),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(32, 2, 1, 1),
        "lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.zeros(32, 1),
    }, {})  # fmt: skip
    with pytest.raises(UserError, match="dora_scale"):
        apply_lora(tmp_path / "dora.safetensors", tiny().hosts, "sd1")


def test_ranks_of_a_file_for_something_else_name_the_file_and_what_to_do(tiny, tmp_path):
    file = tmp_path / "other.safetensors"
    site = "lora_unet_mid_block_attentions_0_proj_in"
    save_lora(file, {
        f"{site}.lora_down.weight": torch.zeros(2, 999, 1, 1), f"{site}.lora_up.weight": torch.zeros(999, 2, 1, 1),
    }, {})  # fmt: skip
    told = r"other\.safetensors is not for this model \(sd1\): .*\[2, 999, 1, 1\] instead of .*Take a LoRA"
    with pytest.raises(UserError, match=told):
        apply_lora(file, tiny().hosts, "sd1")
    config = NetworkConfig(network_weights=str(file), dim_from_weights=True)
    with pytest.raises(UserError, match=told):
        build_network(config, tiny().hosts, "sd1", seed=0)


def test_merging_into_bf16_rounds_once(tiny, files):
    half, full = tiny(dtype=torch.bfloat16), tiny(dtype=torch.bfloat16)
    full.hosts = {name: host.float() for name, host in full.hosts.items()}
    merge_lora(files[1], half.hosts, "sd1", 0.5)
    merge_lora(files[1], full.hosts, "sd1", 0.5)
    for name, host in half.hosts.items():
        exact = full.hosts[name].state_dict()
        assert all(
            torch.equal(value, exact[key].bfloat16())
            for key, value in host.state_dict().items()
            if key.endswith("weight")
        )


def test_a_plugin_that_cannot_be_imported_is_passed_over_unless_the_file_names_it(
    tmp_path, tiny, disturb, monkeypatch, caplog
):
    """Any package of the environment may offer networks, and break with the next version of something else."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "dojo_broken_network.py").write_text("import dojo_package_that_nobody_has", encoding="utf-8")
    package = tmp_path / "dojo_broken_network-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: dojo-broken-network\nVersion: 1.0\n", "utf-8")
    offered = "[lora_dojo.networks]\nacme.broken = dojo_broken_network:Network\n"
    (package / "entry_points.txt").write_text(offered, encoding="utf-8")
    network = build_network(NetworkConfig(network_module="networks.loha", network_dim=2), tiny().hosts, "sd1", seed=1)
    disturb(network, 0.2)
    file, model = tmp_path / "loha.safetensors", tiny()
    save_lora(file, network.state_dict_to_save(), {})
    frozen = model.predict()
    apply_lora(file, model.hosts, "sd1")
    assert not torch.equal(model.predict(), frozen)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "loha.safetensors" in warning and "acme.broken" in warning and "dojo_package_that_nobody_has" in warning
    save_lora(file, network.state_dict_to_save(), {"ss_network_module": "acme.broken"})
    with pytest.raises(UserError, match=r"importing 'dojo_broken_network:Network.*dojo_package_that_nobody_has"):
        apply_lora(file, tiny().hosts, "sd1")
