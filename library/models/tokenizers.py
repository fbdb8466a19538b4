"""CLIP's tokenizer: from the model's folder, an option, the local hub cache, or a small package that carries it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from library.core.errors import UserError
from library.core.memory import is_out_of_memory

log = logging.getLogger("dojo")

HUB_SOURCES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("runwayml/stable-diffusion-v1-5", "tokenizer"),
    ("stabilityai/stable-diffusion-xl-base-1.0", "tokenizer"),
    ("stabilityai/stable-diffusion-2-1", "tokenizer"),
    ("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k", ""),
)
"""Models whose copy of CLIP's vocabulary may lie in the hub's local cache."""
CLIP_BOS, CLIP_EOS = 49406, 49407
OPEN_CLIP_PAD = 0
"""OpenCLIP pads with the token "!", OpenAI's CLIP with its end token."""


class PromptTokenizer(Protocol):
    """Text to token numbers, without the tokens of start and end."""

    @property
    def bos(self) -> int: ...

    @property
    def eos(self) -> int: ...

    @property
    def pad(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token numbers of any length."""
        ...

    def fingerprint(self) -> str:
        """A hash of the vocabulary and rules."""
        ...


@dataclass(frozen=True)
class TransformersTokenizer:
    """A CLIPTokenizer of transformers."""

    tokenizer: Any
    pad: int
    bos: int
    eos: int

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def fingerprint(self) -> str:
        rules: str = self.tokenizer.backend_tokenizer.to_str()
        return hashlib.sha256(f"{self.bos} {self.eos} {self.pad} {rules}".encode()).hexdigest()


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer in a folder (vocab.json with merges.txt, or tokenizer.json), padded as the folder says.

    It is read on first use: a run whose captions are all cached never needs it, nor the import of transformers.
    """

    folder: Path

    @cached_property
    def read(self) -> TransformersTokenizer:
        """
        Raises:
            UserError: the folder holds no CLIP tokenizer.
        """
        return _from_transformers(str(self.folder), None, f"the folder '{self.folder}'")

    @property
    def bos(self) -> int:
        return self.read.bos

    @property
    def eos(self) -> int:
        return self.read.eos

    @property
    def pad(self) -> int:
        return self.read.pad

    def encode(self, text: str) -> list[int]:
        return self.read.encode(text)

    def fingerprint(self) -> str:
        """A hash of the files and of who reads them: another release of transformers may read them otherwise."""
        digest = hashlib.sha256(f"transformers {version('transformers')}".encode())
        for file in sorted(self.folder.iterdir()):
            if file.suffix in (".json", ".txt"):
                digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class InstantTokenizer:
    """The tokenizer of the package instant-clip-tokenizer, which carries CLIP's vocabulary."""

    tokenizer: Any
    pad: int
    bos: int = CLIP_BOS
    eos: int = CLIP_EOS

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)

    def fingerprint(self) -> str:
        return hashlib.sha256(f"instant-clip-tokenizer {self.pad}".encode()).hexdigest()


def clip_tokenizer(option: str | None, pad: int) -> PromptTokenizer:
    """CLIP's own tokenizer for a model that brings none.

    Args:
        option: folder or hub name from the config.
        pad: number of the padding token.

    Raises:
        UserError: the option leads nowhere, or there is no tokenizer on this machine.
    """
    if option is not None:
        folder = Path(option).expanduser()
        inner = folder / "tokenizer"
        source = str(inner if inner.is_dir() else folder) if folder.is_dir() else option
        return _from_transformers(source, pad, f"tokenizer = '{option}'", local_only=False)
    found = _from_hub_cache(pad) or packaged_tokenizer(pad)
    if found is None:
        raise UserError(
            "a single-file model brings no tokenizer, and this machine has none: run `pip install instant-clip-tokenizer` "
            "(3 MB, carries CLIP's vocabulary), or give a folder with vocab.json and merges.txt as `tokenizer`."
        )
    return found


def _from_hub_cache(pad: int) -> PromptTokenizer | None:
    from huggingface_hub import try_to_load_from_cache

    for name, subfolder in HUB_SOURCES:
        prefix = f"{subfolder}/" if subfolder else ""
        cached = [try_to_load_from_cache(name, prefix + file) for file in ("vocab.json", "merges.txt")]
        if all(isinstance(file, str) for file in cached):
            return _from_transformers(str(Path(str(cached[0])).parent), pad, f"the cached tokenizer of '{name}'")
    return None


def packaged_tokenizer(pad: int) -> PromptTokenizer | None:
    """CLIP's tokenizer out of the package instant-clip-tokenizer, where it is installed."""
    if find_spec("instant_clip_tokenizer") is None:
        return None
    from instant_clip_tokenizer import Tokenizer

    return InstantTokenizer(Tokenizer(), pad)


def _from_transformers(source: str, pad: int | None, told_as: str, local_only: bool = True) -> TransformersTokenizer:
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=local_only)
    except Exception as error:  # whatever the libraries say of files that may hold anything
        if is_out_of_memory(error):
            raise
        log.debug("no tokenizer was read", exc_info=True)
        raise UserError(f"{told_as} is no CLIP tokenizer: {_first_line(error)}") from error
    if len(tokenizer) < 4:
        raise UserError(f"{told_as} is no CLIP tokenizer: it needs vocab.json and merges.txt, or tokenizer.json.")
    own_pad = tokenizer.pad_token_id if pad is None else pad
    return TransformersTokenizer(tokenizer, own_pad, tokenizer.bos_token_id, tokenizer.eos_token_id)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
