"""Blocks of the UNet whose frozen weights wait in the CPU's memory and are on the device only while they are used.

A block's weights lie in one buffer. When the block is called they are copied to the device, and those of the block that
is likely to be next are sent after them, beside the computation; when the call ends the block points to the CPU's memory
again. Nothing has to be brought back, since the weights are frozen. For the backward pass the block must be checkpointed:
it is then called again, and autograd holds that copy until it is done with it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from library.core.errors import UserError
from library.models.page_locked import PageLocked

log = logging.getLogger("dojo")

ALIGNMENT = 256
"""Bytes; what matrix products want of their operands."""


def swap_blocks(unet: nn.Module, count: int, device: torch.device) -> None:
    """Leave the weights of `count` transformer blocks, evenly spread, on the CPU, and move all others to the device.

    Raises:
        UserError: the UNet has fewer transformer blocks.
    """
    blocks = transformer_blocks(unet)
    if count > len(blocks):
        raise UserError(
            f"blocks_to_swap = {count}, but the model's UNet has {len(blocks)} transformer blocks: set at most that many."
        )
    chosen = [blocks[index * len(blocks) // count] for index in range(count)]
    inside = {module for block in chosen for module in block.modules()}
    for module in unet.modules():
        if module not in inside:
            for name, tensor in _own_tensors(module):
                setattr(module, name, _like(tensor, tensor.to(device)))
    BlockSwapper(chosen, device)


def transformer_blocks(unet: Any) -> list[nn.Module]:
    """In the order in which the UNet calls them."""
    return [
        module
        for part in (unet.down_blocks, unet.mid_block, unet.up_blocks)
        for module in part.modules()
        if type(module).__name__ == "BasicTransformerBlock"
    ]


class BlockSwapper:
    """Brings blocks to the device for the time of each call; lives on in their hooks.

    At most two blocks are on the device, and a third while autograd still holds one.

    Args:
        blocks: in the order of their calls. Another order costs time and nothing else.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._homes = [_Home(block, device) for block in blocks]
        refusals = [home.refusal for home in self._homes if home.refusal is not None]
        if refusals:
            log.warning(
                "blocks_to_swap: the memory of %d of %d blocks could not be page-locked (%s), so the GPU waits for each of their "
                "copies. Steps take longer; nothing else changes.",
                len(refusals),
                len(blocks),
                refusals[0],
            )
        self._last = -1
        self._ahead: dict[int, _Copy] = {}
        for index, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(self._enter, index))
            # a checkpointed call is left by an exception as soon as it has what the backward pass needs
            block.register_forward_hook(partial(self._leave, index), always_call=True)

    def _enter(self, index: int, *call: object) -> None:
        expected = self._ahead.pop(index, None)
        for unused in self._ahead.values():
            unused.wait()  # its memory must not be given away while the copy still writes to it
        self._ahead.clear()
        copy = expected or self._copy(index)
        copy.wait()
        self._homes[index].show(copy.buffer)
        following = self._following(index)
        if 0 <= following < len(self._homes):
            self._ahead[following] = self._copy(following)

    def _leave(self, index: int, *call: object) -> None:
        self._homes[index].show(self._homes[index].buffer)

    def _following(self, index: int) -> int:
        """Forward passes go up through the blocks, backward passes down; either starts with the block that was last."""
        up = index > self._last or (index == 0 and self._last != 1)
        self._last = index
        return index + 1 if up else index - 1

    def _copy(self, index: int) -> _Copy:
        home = self._homes[index].buffer
        buffer = torch.empty_like(home, device=self._device)
        if self._stream is None:
            return _Copy(buffer.copy_(home), None)
        # the memory belongs to the computing stream, which may still use what it held before
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            buffer.copy_(home, non_blocking=True)
            return _Copy(buffer, self._stream.record_event())


@dataclass(frozen=True)
class _Copy:
    """A block's weights on the device, or on their way to it."""

    buffer: Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> None:
        """Let the computation wait for them; the host does not."""
        if self.arrived is not None:
            self.arrived.wait()


@dataclass(frozen=True)
class _Place:
    """Where a tensor of a block lies in its buffer."""

    module: nn.Module
    name: str
    offset: int
    shape: torch.Size
    dtype: torch.dtype


class _Home:
    """A block's weights on the CPU, in one buffer of bytes (page-locked, where a GPU fetches them).

    Args:
        device: where the block is used.
    """

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self._places: list[_Place] = []
        end = 0
        tensors = [(module, name, tensor) for module in block.modules() for name, tensor in _own_tensors(module)]
        for module, name, tensor in tensors:
            self._places.append(_Place(module, name, end, tensor.shape, tensor.dtype))
            end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        self._locked = PageLocked(end, device) if device.type == "cuda" else None
        self.buffer = torch.empty(end, dtype=torch.uint8) if self._locked is None else self._locked.bytes
        for place, (_, _, tensor) in zip(self._places, tensors, strict=True):
            _view(self.buffer, place).copy_(tensor)
        self.show(self.buffer)

    @property
    def refusal(self) -> str | None:
        """Why the memory is not page-locked, where it should be."""
        return None if self._locked is None else self._locked.refusal

    def show(self, buffer: Tensor) -> None:
        """Let the block's tensors be those of this buffer."""
        for place in self._places:
            # new tensors, so that what autograd has saved of the old ones stays what it was
            setattr(place.module, place.name, _like(getattr(place.module, place.name), _view(buffer, place)))


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from list(module.named_parameters(recurse=False))
    yield from list(module.named_buffers(recurse=False))


def _like(former: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, requires_grad=False) if isinstance(former, nn.Parameter) else value


def _view(buffer: Tensor, place: _Place) -> Tensor:
    size = prod(place.shape) * place.dtype.itemsize
    return buffer[place.offset : place.offset + size].view(place.dtype).view(place.shape)
