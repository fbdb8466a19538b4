"""LoRA files: header, metadata, tensors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from library.cli.lora_tools.report import report_text
from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.lora_files.convert import converted
from library.lora_files.file import read_lora
from library.lora_files.inspect import inspect
from library.models.published import recipe
from library.models.random_weights import random_modules
from networks.build import build_network
from networks.files.apply import apply_lora
from tests.fuzz.strategies import TEXT, VALUES, damaged, fuzzed, odd_header, outcome, room_for, safetensors

KEY = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture(scope="module")
def hosts() -> dict[str, nn.Module]:
    return {"unet": random_modules(recipe("sd15", tiny=True), torch.float32, 0)["unet"].requires_grad_(False)}


@pytest.fixture(scope="module")
def whole(hosts: dict[str, nn.Module]) -> bytes:
    """A LoRA on the UNet."""
    network = build_network(NetworkConfig(network_dim=2), hosts, "sd1", 0)
    tensors = network.state_dict_to_save()
    network.detach()  # type: ignore[attr-defined]
    return save({name: tensor for name, tensor in tensors.items() if "mid_block" in name}, {"ss_network_dim": "2"})


@pytest.fixture(scope="module")
def of_diffusers(whole: bytes) -> bytes:
    """The same under diffusers' names, with PEFT's alphas in the header."""
    names = converted(load(whole), "sd1", "diffusers")
    return save(names, {"lora_adapter_metadata": '{"unet.lora_alpha": 2, "unet.alpha_pattern": {"proj_in": 1}}'})


@pytest.fixture(scope="module")
def apply(hosts: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], Any]:
    """Put a file onto the model, take its ranks for a new network, and go on from it; the model is as before in any case."""
    folder = tmp_path_factory.mktemp("loras")

    def applied(content: bytes) -> Any:
        file = folder / "a.safetensors"
        file.unlink(missing_ok=True)  # a former one may still be mapped
        file.write_bytes(content)
        outcome(lambda: report_text(inspect(file), everything=True), "a.safetensors")
        found = outcome(lambda: apply_lora(file, hosts, "sd1"), "a.safetensors")
        if not isinstance(found, UserError):
            found.detach()
        for own in (True, False):
            config = NetworkConfig(network_dim=2, network_weights=str(file), dim_from_weights=own)
            network = outcome(lambda config=config: build_network(config, hosts, "sd1", 0))
            if not isinstance(network, UserError):
                saved = network.state_dict_to_save()
                assert all(name.endswith("alpha") or tensor.dtype == torch.float32 for name, tensor in saved.items())
            unhook(hosts["unet"])
        return found

    return applied


def unhook(host: nn.Module) -> None:
    for module in host.modules():
        vars(module).pop("forward", None)


def header_of(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header.pop("__metadata__", None)
    return header


def filled(header: dict[str, Any]) -> bytes:
    return safetensors(header, room_for(header))


@fuzzed(40)
@given(data=st.data())
def test_damaged_files(data: st.DataObject, whole: bytes, apply: Callable[[bytes], Any]) -> None:
    apply(data.draw(damaged(whole)))


@fuzzed(40)
@given(data=st.data())
def test_odd_headers(data: st.DataObject, whole: bytes, apply: Callable[[bytes], Any]) -> None:
    header = data.draw(odd_header(header_of(whole)))
    apply(safetensors(header, room_for(header)))


@fuzzed(30)
@given(data=st.data())
def test_damaged_files_of_diffusers(data: st.DataObject, of_diffusers: bytes, apply: Callable[[bytes], Any]) -> None:
    apply(data.draw(damaged(of_diffusers) | odd_header(header_of(of_diffusers)).map(filled)))


@fuzzed(30)
@given(VALUES)
def test_any_alphas_of_peft(of_diffusers: bytes, apply: Callable[[bytes], Any], alphas: Any) -> None:
    header = header_of(of_diffusers) | {"__metadata__": {"lora_adapter_metadata": json.dumps(alphas)}}
    apply(safetensors(header, room_for(header)))


@fuzzed(30)
@given(st.dictionaries(TEXT, VALUES, max_size=3) | VALUES)
@example(None)
@example({"ss_network_module": "os.system"})
def test_any_metadata(tmp_path: Path, metadata: Any) -> None:
    file = tmp_path / "a.safetensors"
    file.unlink(missing_ok=True)
    file.write_bytes(safetensors({"__metadata__": metadata}))
    found = outcome(lambda: read_lora(file), "a.safetensors")
    if not isinstance(found, UserError):
        assert all(isinstance(value, str) for value in found[1].values())


def lora(down: list[int], up: list[int], alpha: Any = None, dtype: str = "F16") -> bytes:
    """One site with these shapes, all zeros."""
    header, begin = {}, 0
    for name, shape in (("lora_down.weight", down), ("lora_up.weight", up)):
        size = 2
        for side in shape:
            size *= side
        header[f"{KEY}.{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + size]}
        begin += size
    data = bytes(begin)
    if alpha is not None:
        header[f"{KEY}.alpha"] = {
            "dtype": "F32",
            "shape": list(alpha.shape),
            "data_offsets": [begin, begin + alpha.nbytes],
        }
        data += alpha.numpy().tobytes()
    return safetensors(header, data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lora([2**40, 0], [0, 2**40]), "instead of"),
        (lora([], []), "cannot be told"),
        (lora([0, 64], [64, 0]), "rank 0"),
        (lora([2, 64, 1, 1], [64, 2, 1, 1], torch.tensor([1.0, 2.0])), "one finite number"),
        (lora([2, 64, 1, 1], [64, 2, 1, 1], torch.tensor(float("nan"))), "one finite number"),
        (lora([2, 64, 1, 1], [64, 2, 1, 1], dtype="I16"), "int16 instead of fractions"),
    ],
)
def test_what_once_went_wrong(apply: Callable[[bytes], Any], content: bytes, told: str) -> None:
    found = apply(content)
    assert isinstance(found, UserError)
    assert told in str(found)


def test_a_small_file_takes_no_more_memory_than_it_has(apply: Callable[[bytes], Any]) -> None:
    """A rank of millions, in a file of megabytes: an adapter of it would take gigabytes."""
    before = psutil.Process().memory_info().rss
    found = apply(lora([4_000_000, 1, 1, 1], [1, 1, 1, 1]))
    assert isinstance(found, UserError)
    assert "[4000000, 1, 1, 1] instead of" in str(found)
    assert psutil.Process().memory_info().rss - before < 200 << 20


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 100_000_001, 3, 0])
def test_a_header_of_any_length(apply: Callable[[bytes], Any], length: int) -> None:
    assert isinstance(apply(safetensors({}, length=length)), UserError)


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,99]}}',
        b'{"a":{"dtype":"U8","shape":[4294967296,4294967296,2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{"a":1},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_malformed_headers_are_refused(apply: Callable[[bytes], Any], header: bytes) -> None:
    assert isinstance(apply(safetensors(header, b"1234")), UserError)


def test_names_that_command_a_terminal_are_shown_as_text(apply: Callable[[bytes], Any]) -> None:
    name = "\x1b]0;title\x07\x1b[2J<b>\u202e"
    found = apply(safetensors({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"1"))
    assert isinstance(found, UserError)
    assert "\\x1b]0;title\\x07\\x1b[2J<b>\\u202e" in str(found)


def test_the_whole_file_fits(whole: bytes, of_diffusers: bytes, apply: Callable[[bytes], Any]) -> None:
    assert not isinstance(apply(whole), UserError)
    assert not isinstance(apply(of_diffusers), UserError)
