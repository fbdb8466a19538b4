"""Blocks whose weights wait on the CPU. Here the "device" is the CPU too, but what is used is a copy all the same."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from library.config.schema.network import NetworkConfig
from library.core.errors import UserError
from library.models import offload
from library.models.offload import BlockSwapper, transformer_blocks
from networks.build import build_network


@pytest.fixture
def copies(monkeypatch):
    """Weak references to every copy of a block that was made, in order, by block."""
    made = []

    def copy(self, index, original=BlockSwapper._copy):
        found = original(self, index)
        made.append((index, StorageWeakRef(found.buffer.untyped_storage())))
        return found

    monkeypatch.setattr(BlockSwapper, "_copy", copy)
    return made


def alive(copies):
    return sorted(index for index, reference in copies if not reference.expired())


def swapped(load, path, count, **settings):
    model = load(path, blocks_to_swap=count, **settings)
    model.enable_gradient_checkpointing(selective=False, random=False)
    return model


@pytest.mark.parametrize("quantised", ["none", "int8", "nf4"])
@pytest.mark.parametrize("count", [1, 3, None])
def test_gradients_are_bitwise_those_of_a_model_that_stays(tiny, load, attach, quantised, count):
    path = tiny("sdxl", "folder")
    stays = load(path, quantize_base=quantised)
    everything = len(transformer_blocks(stays.hosts(["unet"])["unet"]))
    moves = swapped(load, path, count or everything, quantize_base=quantised)
    stays, moves = attach(stays), attach(moves)
    found, expected = moves.gradients(), stays.gradients()
    assert all(torch.equal(mine, reference) for mine, reference in zip(found, expected, strict=True))
    assert torch.equal(moves.predict(), stays.predict())


def test_weights_are_there_only_while_they_are_used(tiny, load, attach, copies):
    model = swapped(load, tiny("sdxl", "folder"), 6)
    unet = model.hosts(["unet"])["unet"]
    blocks = transformer_blocks(unet)
    homes = [block.attn1.to_q.weight.data_ptr() for block in blocks]
    most, seen = 0, []
    for index, block in enumerate(blocks):

        def watch(module, inputs, index=index):
            nonlocal most
            seen.append((index, module.weight.data_ptr() != homes[index]))
            most = max(most, len(alive(copies)))

        block.attn1.to_q.register_forward_pre_hook(watch)
    attach(model).gradients()
    assert [index for index, _ in seen] == [*range(len(blocks)), *reversed(range(len(blocks)))]
    assert sum(moved for _, moved in seen) == 2 * 6
    assert 2 <= most <= 3
    assert [block.attn1.to_q.weight.data_ptr() for block in blocks] == homes
    assert alive(copies) == []


def test_the_next_block_is_fetched_ahead_in_either_direction(tiny, load, attach, copies):
    model = swapped(load, tiny("sdxl", "folder"), 4)
    attached = attach(model)
    for _ in range(3):
        copies.clear()
        attached.gradients()
        # up through the blocks and down again; only the first of each direction is not there when it is called
        assert [index for index, _ in copies] == [0, 1, 2, 3, 3, 2, 1, 0]


def test_pictures_need_no_backward_pass(tiny, load, attach, copies):
    attached = attach(swapped(load, tiny("sdxl", "folder"), 4))
    with torch.no_grad():
        for _ in range(2):
            attached.predict()
    assert [index for index, _ in copies] == [0, 1, 2, 3] * 2
    assert alive(copies) == []


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_blocks_come_in_the_order_of_their_calls(tiny, load, attach, family):
    attached = attach(load(tiny(family, "folder")))
    order, blocks = [], transformer_blocks(attached.model.hosts(["unet"])["unet"])
    for block in blocks:
        block.register_forward_pre_hook(lambda module, inputs: order.append(module))
    attached.predict()
    assert order == blocks


def test_more_blocks_than_there_are(tiny, load):
    with pytest.raises(UserError, match=r"blocks_to_swap = 99, but the model's UNet has \d+ transformer blocks"):
        load(tiny("sd15", "folder"), blocks_to_swap=99).hosts(["unet"])


def test_networks_are_on_the_device_and_the_waiting_weights_on_the_cpu(tiny, load, monkeypatch):
    """With the meta device standing for a GPU."""
    unet = load(tiny("sdxl", "folder")).hosts(["unet"])["unet"]
    offload.swap_blocks(unet, 2, torch.device("meta"))
    waiting = {block for block in transformer_blocks(unet) if block.attn1.to_q.weight.device.type == "cpu"}
    assert len(waiting) == 2
    inside = {parameter for block in waiting for parameter in block.parameters()}
    assert all(parameter.is_meta for parameter in unet.parameters() if parameter not in inside)
    network = build_network(NetworkConfig(network_train_unet_only=True), {"unet": unet}, "sdxl", 0)
    assert all(parameter.is_meta for parameter in network.parameters())
