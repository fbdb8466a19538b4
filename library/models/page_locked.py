"""Memory of the CPU that a GPU copies from by itself while the host goes on."""

from __future__ import annotations

import mmap
import weakref
from contextlib import suppress

import torch


class PageLocked:
    """Bytes that are page-locked for as long as this object lives; ordinary ones where that is refused.

    What torch locks itself comes in powers of two, which for the blocks of an SDXL is almost twice of what they need.

    Args:
        size: bytes.
        device: the GPU that will copy from them.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        page = mmap.PAGESIZE
        locked = -(-size // page) * page  # whole pages that hold nothing else: no page can be locked twice
        room = torch.empty(locked + page, dtype=torch.uint8)
        start = -room.data_ptr() % page
        self.bytes = room[start : start + size]
        """(size,)"""
        self.refusal: str | None = None
        """What CUDA says of memory that it does not lock."""
        if not size:
            return
        cudart = torch.cuda.cudart()
        code = cudart.cudaHostRegister(self.bytes.data_ptr(), locked, 0)
        if int(code) == 0:
            unlock = weakref.finalize(self, cudart.cudaHostUnregister, self.bytes.data_ptr())
            unlock.atexit = False  # CUDA may have ended by then
            return
        self.refusal = cudart.cudaGetErrorString(code)
        with suppress(RuntimeError):  # CUDA would report it a second time, of whatever is launched next: let it be this
            torch.ones(1, device=device)
