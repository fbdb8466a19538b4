"""A model's text encoders together: prompts to the conditioning that its UNet reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from library.data.types import Conditioning, Tokens
from library.models.checkpoint import Checkpoint, Component
from library.models.checkpointing import checkpoint_text_encoder
from library.models.emphasis import count_tokens
from library.models.noted_fingerprint import noted_fingerprint
from library.models.parts import LazyModule, load_text_encoder
from library.models.text import Chunking, ClipStates, emphasised, encode, tokenize
from library.models.tokenizers import FolderTokenizer, PromptTokenizer, clip_tokenizer


class ClipEncoder:
    """One CLIP text encoder with its tokenizer; both load when they are needed."""

    def __init__(
        self,
        component: Component,
        tokenizer: Callable[[], PromptTokenizer],
        states: ClipStates,
        dtype: torch.dtype,
        device: torch.device,
        quantised: str,
    ) -> None:
        self.component = component
        self.states = states
        self.quantised = quantised
        self.module: LazyModule[nn.Module] = LazyModule(
            lambda: load_text_encoder(component, states.pooled, dtype, device, quantised)
        )
        self._read_tokenizer = tokenizer
        self._tokenizer: PromptTokenizer | None = None

    @property
    def tokenizer(self) -> PromptTokenizer:
        if self._tokenizer is None:
            self._tokenizer = self._read_tokenizer()
        return self._tokenizer

    @property
    def window(self) -> int:
        """Tokens that the encoder reads at once, start and end among them."""
        return self.component.config.get("max_position_embeddings", 77)


class PromptEncoder:
    """Text encoders side by side: their hidden states are joined along the features, the pooled state is the last one's.

    Args:
        encoders: in the order of the hosts' names te1, te2.
        chunks: windows that a prompt may fill.
        weighted: whether `(words:1.2)` is emphasis.
    """

    def __init__(
        self, encoders: Sequence[ClipEncoder], chunks: int, weighted: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._encoders = list(encoders)
        self._chunking = Chunking(encoders[0].window, chunks, weighted)
        self._dtype = dtype
        self._device = device

    def hosts(self) -> dict[str, nn.Module]:
        """The encoders by the names that networks know them by."""
        return {f"te{number}": encoder.module() for number, encoder in enumerate(self._encoders, start=1)}

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """`ids`, (B, n, T) for the first encoder, `ids_2` for the second; `weights` alike."""
        tokens: Tokens = {}
        for suffix, encoder in zip(("", "_2"), self._encoders):
            ids, weights = tokenize(prompts, encoder.tokenizer, self._chunking)
            tokens["ids" + suffix] = ids
            if weights is not None:
                tokens["weights" + suffix] = weights
        return tokens

    def encode_tokens(self, tokens: Tokens) -> Conditioning:
        """`hidden` (B, n(T-2)+2, D), and `pooled` (B, P) where the model has it."""
        hidden: list[Tensor] = []
        conditioning: Conditioning = {}
        for suffix, encoder in zip(("", "_2"), self._encoders):
            ids_BnT = tokens["ids" + suffix].to(self._device)
            states_BTD, pooled_BP = encode(encoder.module(), ids_BnT, encoder.tokenizer.eos, encoder.states)
            weights_BnT = tokens.get("weights" + suffix)
            hidden.append(states_BTD if weights_BnT is None else emphasised(states_BTD, weights_BnT.to(self._device)))
            if pooled_BP is not None:
                conditioning["pooled"] = pooled_BP
        return {"hidden": torch.cat(hidden, dim=-1), **conditioning}

    def count_tokens(self, prompt: str) -> int:
        return count_tokens(prompt, self._encoders[0].tokenizer, self._chunking.weighted)

    def fingerprint(self, notes: Path | None = None) -> str:
        """A hash of what shapes the conditioning: weights, vocabularies, layers, chunks, type, packing.

        Args:
            notes: see `noted_fingerprint`.
        """
        digest = hashlib.sha256(f"{self._chunking} {self._dtype}".encode())
        for encoder in self._encoders:
            settings = sorted((key, str(value)) for key, value in encoder.component.config.items())
            digest.update(f"{encoder.states} {encoder.tokenizer.fingerprint()} {settings} {encoder.quantised}".encode())
            digest.update(noted_fingerprint(encoder.component.weights, notes).encode())
        return digest.hexdigest()

    def release(self) -> None:
        for encoder in self._encoders:
            encoder.module.release()

    def enable_gradient_checkpointing(self, random: bool) -> None:
        for encoder in self._encoders:
            encoder.module.prepare(lambda module: checkpoint_text_encoder(module, random))


def tokenizer_source(
    checkpoint: Checkpoint, encoder: str, option: str | None, pad: int
) -> Callable[[], PromptTokenizer]:
    """Reads the tokenizer of one of the checkpoint's text encoders: the config's, the model's own, or CLIP's.

    Args:
        pad: number of the padding token of this encoder, where the model brings no tokenizer that says so.
    """
    folder = checkpoint.tokenizer_folder(encoder)
    if option is None and folder is not None:
        return lambda: FolderTokenizer(folder)
    return lambda: clip_tokenizer(option, pad)
