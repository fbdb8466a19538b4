"""Files that LyCORIS writes act here as there, and go on being trained."""

from __future__ import annotations

import pytest
import torch

from library.config.schema.network import NetworkConfig
from library.lora_files.file import save_lora
from networks.build import build_network
from networks.files.apply import apply_lora

FILES = {
    "loha": ("sd1", "networks.loha", {"algo": "loha", "preset": "attn-mlp"}),
    "loha conv": (
        "sd1",
        "networks.loha",
        {"algo": "loha", "preset": "unet-convblock-only", "conv_dim": 2, "use_tucker": True},
    ),
    "lokr": ("sd1", "networks.lokr", {"algo": "lokr", "preset": "attn-mlp", "factor": 4, "decompose_both": True}),
    "lokr full": ("sd1", "networks.lokr", {"algo": "lokr", "preset": "unet-convblock-only", "full_matrix": True}),
    "lokr conv": (
        "sd1",
        "networks.lokr",
        {"algo": "lokr", "preset": "unet-convblock-only", "conv_dim": 1, "use_tucker": True},
    ),
    "lokr sdxl": ("sdxl", "networks.lokr", {"algo": "lokr", "preset": "attn-mlp", "factor": 8}),
    "ia3": ("sd1", "networks.ia3", {"algo": "ia3", "preset": "attn-mlp"}),
    **{
        f"{algo}{' rescaled' * rescaled}": (
            "sd1",
            module,
            {"algo": algo, "constraint": 0.01, "rescaled": rescaled, "preset": "attn-mlp"},
        )
        for algo, module in (("diag-oft", "networks.oft"), ("boft", "networks.boft"))
        for rescaled in (False, True)
    },
    **{
        f"dora of {side}": (
            "sd1",
            "networks.dora",
            {"algo": "locon", "dora_wd": True, "wd_on_output": side == "outputs", "preset": "attn-mlp"},
        )
        for side in ("inputs", "outputs")
    },
}


@pytest.mark.parametrize(("family", "module", "arguments"), FILES.values(), ids=FILES)
def test_a_file_of_lycoris(family, module, arguments, tiny, disturb, tmp_path):
    theirs = tiny(family)
    parts = {} if arguments["preset"] == "attn-mlp" else {"network_train_unet_only": True}
    config = NetworkConfig(
        network_module="lycoris.kohya", network_dim=2, network_alpha=1, network_args=arguments, **parts
    )
    network = build_network(config, theirs.hosts, family, seed=3)
    disturb(network, 0.3)
    acting = theirs.predict(), theirs.encode("te1")
    file = tmp_path / "lycoris.safetensors"
    save_lora(file, network.state_dict_to_save(), {})

    applied = tiny(family)
    assert not torch.allclose(applied.predict(), acting[0], rtol=1e-3, atol=1e-3)
    apply_lora(file, applied.hosts, family)
    trained = tiny(family)
    again = NetworkConfig(network_module=module, network_weights=str(file), dim_from_weights=True, **parts)
    build_network(again, trained.hosts, family, seed=4)
    for ours in (applied, trained):
        torch.testing.assert_close(ours.predict(), acting[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.encode("te1"), acting[1], rtol=1e-4, atol=1e-5)
