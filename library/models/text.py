"""Prompts to conditioning: tokens in chunks, emphasis, and CLIP's hidden states.

Letters: B prompts, n chunks, T tokens of a chunk with its start and end (77), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from library.models.emphasis import parse_emphasis
from library.models.tokenizers import PromptTokenizer


@dataclass(frozen=True)
class Chunking:
    """How prompts become rows of tokens."""

    window: int
    """T: tokens that the encoder reads at once."""
    chunks: int = 1
    """n: how many windows a prompt may fill; each takes T - 2 tokens of it."""
    weighted: bool = False
    """Read `(words:1.2)` as emphasis."""

    @property
    def capacity(self) -> int:
        """Tokens of a prompt that are read; what goes beyond is cut off."""
        return self.chunks * (self.window - 2)


@dataclass(frozen=True)
class ClipStates:
    """What is taken from a text encoder, and how."""

    layer: int
    """Which hidden state, counted from the end: 1 is the last layer's output."""
    normed: bool
    """Whether the encoder's last layer norm follows."""
    pooled: bool
    """Whether the projected state of the end token is asked for too."""


def tokenize(prompts: Sequence[str], tokenizer: PromptTokenizer, chunking: Chunking) -> tuple[Tensor, Tensor | None]:
    """Token numbers (B, n, T), and alike the weights of each where captions are weighted."""
    rows = [_numbered(prompt, tokenizer, chunking) for prompt in prompts]
    ids = torch.tensor([_windows(numbers, tokenizer, chunking) for numbers, _ in rows])
    if not chunking.weighted:
        return ids, None
    return ids, torch.tensor([_weight_windows(weights, chunking) for _, weights in rows])


def encode(encoder: Any, ids_BnT: Tensor, eos: int, states: ClipStates) -> tuple[Tensor, Tensor | None]:
    """Hidden states (B, n(T-2)+2, D), and (B, P) the projected state of the first chunk's end token where it is asked for.

    `encoder` is a CLIPTextModel, or one with a projection. Inner starts and ends are dropped, so that three chunks of 77 give 227 states.
    """
    B, n, T = ids_BnT.shape
    output = encoder(ids_BnT.reshape(B * n, T), output_hidden_states=True)
    # transformers 4 nests the layers one level deeper than 5, and so do both with a projection
    body = getattr(encoder, "text_model", encoder)
    hidden = output.hidden_states[-states.layer]
    if states.normed:
        hidden = body.final_layer_norm(hidden)
    joined = join_chunks(hidden.reshape(B, n, T, -1))
    if not states.pooled:
        return joined, None
    first_BTD = body.final_layer_norm(output.hidden_states[-1]).reshape(B, n, T, -1)[:, 0]
    ends_B = (ids_BnT[:, 0] == eos).int().argmax(dim=-1)
    rows_B = torch.arange(B, device=ids_BnT.device)
    return joined, encoder.text_projection(first_BTD[rows_B, ends_B])


def join_chunks(states_BnTD: Tensor) -> Tensor:
    """(B, n(T-2)+2, D): the first chunk's start, what stands between start and end of each chunk, the last one's end."""
    inner = states_BnTD[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states_BnTD[:, 0, :1], inner, states_BnTD[:, -1, -1:]], dim=1)


def emphasised(states_BTD: Tensor, weights_BnT: Tensor) -> Tensor:
    """States multiplied by the weights of their tokens, as sd-scripts does it."""
    return states_BTD * join_chunks(weights_BnT.unsqueeze(-1)).to(states_BTD)


def _numbered(prompt: str, tokenizer: PromptTokenizer, chunking: Chunking) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    weights: list[float] = []
    for text, weight in parse_emphasis(prompt) if chunking.weighted else [(prompt, 1.0)]:
        encoded = tokenizer.encode(text)
        numbers += encoded
        weights += [weight] * len(encoded)
    return numbers[: chunking.capacity], weights[: chunking.capacity]


def _windows(numbers: list[int], tokenizer: PromptTokenizer, chunking: Chunking) -> list[list[int]]:
    """Each window is start, a piece of the prompt, end, padding."""
    size = chunking.window - 2
    pieces = [numbers[first : first + size] for first in range(0, chunking.capacity, size)]
    return [
        [tokenizer.bos, *piece, tokenizer.eos, *[tokenizer.pad] * (size - len(piece))]
        for piece in pieces
    ]  # fmt: skip


def _weight_windows(weights: list[float], chunking: Chunking) -> list[list[float]]:
    size = chunking.window - 2
    pieces = [weights[first : first + size] for first in range(0, chunking.capacity, size)]
    return [[1.0, *piece, *[1.0] * (size - len(piece)), 1.0] for piece in pieces]
