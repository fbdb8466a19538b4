"""Where a model is: a folder, a file, or a name on the hub, looked for in the local hub cache first."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from library.config.places import reachable
from library.core.errors import UserError, did_you_mean

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
STANDARD_NAME = re.compile(r"(diffusion_pytorch_model|model)[.-]")
"""How diffusers and transformers name weights; some VAEs on the hub have copies for other programs beside them."""
SETTINGS = (".json", ".txt", ".model")
TIMEOUT = 20
"""Seconds to wait for the hub."""


def locate(name: str, key: str, prefer_half: bool = False) -> Path:
    """The file or folder that `name` stands for; a model on the hub is downloaded when it is not in the local cache.

    Args:
        key: the option that holds the name, for messages.
        prefer_half: of a hub model download the fp16 files where there are any.

    Raises:
        UserError: nothing is there, or the hub cannot be reached.
    """
    try:
        path = Path(reachable(name))
    except ValueError as error:
        raise UserError(f'{key} = "{name}": expected {error}.') from error
    if path.exists():
        return path
    if not HUB_NAME.fullmatch(name) or path.suffix in (".safetensors", ".ckpt"):
        raise UserError(f"{key}: there is no file or folder '{name}'.{_near(path)}")
    return _cached_snapshot(name, key) or _download(name, key, prefer_half)


def weight_files(names: Iterable[str], prefer_half: bool) -> list[str]:
    """Which of a folder's files hold its weights: one precision of them, all its shards.

    Args:
        names: the file names of one component's folder.
        prefer_half: take the fp16 files where both are there; else the full ones.
    """
    stored = sorted(name for name in names if name.endswith(".safetensors"))
    stored = [name for name in stored if STANDARD_NAME.match(name)] or stored
    by_variant: dict[str, list[str]] = {}
    for name in stored:
        by_variant.setdefault(_variant(name), []).append(name)
    order = ["fp16", "bf16", ""] if prefer_half else ["", "bf16", "fp16"]
    for variant in [*order, *sorted(by_variant)]:
        if variant in by_variant:
            return by_variant[variant]
    return []


def _variant(name: str) -> str:
    """'fp16' of 'model.fp16.safetensors' and of 'model.fp16-00001-of-00002.safetensors'; '' of 'model.safetensors'."""
    stem = re.sub(r"-\d+-of-\d+$", "", name.removesuffix(".safetensors"))
    return PurePosixPath(stem).suffix.removeprefix(".")


def _near(path: Path) -> str:
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, siblings)


def _cached_snapshot(name: str, key: str) -> Path | None:
    """The hub's local copy, when it holds the weights of a model (a cached tokenizer alone does not do).

    Raises:
        UserError: the hub has no such names.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f"{key}: there is no file or folder '{name}', and no such name on the hub. {error}") from error
    return snapshot if any(snapshot.rglob("*.safetensors")) else None


def _download(name: str, key: str, prefer_half: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    # the hub's client raises its HTTP library's own errors where there is no connection, and libraries differ by version
    unreachable: tuple[type[Any], ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        listed = HfApi().model_info(name, timeout=TIMEOUT).siblings or []
        wanted = _wanted_files([file.rfilename for file in listed], prefer_half)
        return Path(snapshot_download(name, allow_patterns=wanted))
    except GatedRepoError as error:
        raise UserError(
            f"{key}: the hub gives '{name}' only to those who accepted its licence. Accept it on the model's page, "
            "then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{key}: '{name}' is neither a file or folder here nor a public model on the hub. Check the spelling, "
            "or log in with `hf auth login` where the model is private."
        ) from error
    except unreachable as error:
        raise UserError(
            f"{key}: there is no file or folder '{name}', the local hub cache does not hold a model of that name, and "
            f"the hub cannot be reached ({type(error).__name__}). Check the spelling or the connection, or give the path "
            "of a model on this machine."
        ) from error


def _wanted_files(files: Iterable[str], prefer_half: bool) -> list[str]:
    """The settings, and of each component's weights one precision. Single files beside component folders are left out."""
    paths = [PurePosixPath(file) for file in files]
    wanted = [str(path) for path in paths if path.suffix in SETTINGS]
    top = PurePosixPath(".")
    for folder in sorted({path.parent for path in paths if path.suffix == ".safetensors"} - {top}) or [top]:
        names = [path.name for path in paths if path.parent == folder]
        wanted += [str(folder / name) for name in weight_files(names, prefer_half)]
    return wanted
