"""What a model's files say before any weight is read: its components, their settings, and where their weights are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.pickles import RUNS_ANYTHING, is_pickle
from library.models.location import weight_files
from library.models.original_names import vae_name
from library.models.weights import Placement, StoredTensor, Weights, read_header, unchanged

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
WIDEST = 1 << 20
"""Largest number in a component's settings: more features, tokens or positions than any model has."""


@dataclass(frozen=True)
class Component:
    """One module of the model: arguments of its class, and where its weights are."""

    config: Mapping[str, Any]
    weights: Weights


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, in names of diffusers and transformers whatever its layout."""

    path: Path
    components: Mapping[str, Component]
    """By name: unet, vae, text_encoder, text_encoder_2, as far as the model has them."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """diffusers' scheduler settings; empty for a single file."""
    prediction: str | None = None
    """"eps" or "v" where the files say so."""
    zero_terminal_snr: bool = False
    """The files say that the model was trained down to pure noise."""

    def component(self, name: str) -> Component:
        """One part of the model.

        Raises:
            UserError: the model does not have it.
        """
        if name not in self.components:
            hint = " Give one with `vae`." if name == "vae" else " Take the full model, not a part of it."
            raise UserError(f"the model '{self.path}' holds no {name}; it holds {', '.join(self.components)}.{hint}")
        return self.components[name]

    def tokenizer_folder(self, name: str) -> Path | None:
        """The folder of the tokenizer that belongs to a text encoder, where the model brings one."""
        folder = self.path / name.replace("text_encoder", "tokenizer")
        return folder if folder.is_dir() else None


def read_folder(path: Path, prefer_half: bool = False) -> Checkpoint:
    """A model in the diffusers layout.

    Raises:
        UserError: not such a folder, or one of another kind of model.
    """
    if not (path / "unet").is_dir():
        raise UserError(_not_a_model_folder(path))
    scheduler = _scheduler(path)
    prediction = {"epsilon": "eps", "v_prediction": "v", None: None}
    stated = scheduler.get("prediction_type")
    if stated not in prediction:
        raise UserError(
            f"'{path}' predicts '{stated}' (scheduler/scheduler_config.json); known are epsilon and v_prediction."
        )
    return Checkpoint(
        path=path,
        components={name: read_component(path / name, prefer_half) for name in COMPONENTS if (path / name).is_dir()},
        scheduler=scheduler,
        prediction=prediction[stated],
        zero_terminal_snr=bool(scheduler.get("rescale_betas_zero_snr", False)),
    )


def read_component(folder: Path, prefer_half: bool = False) -> Component:
    """A component's folder: config.json and safetensors, sharded or not.

    Raises:
        UserError: a file is missing or cannot be read, or there are only pickles.
    """
    config = read_json(folder / "config.json")
    tensors: dict[str, StoredTensor] = {}
    for name in component_files(folder, prefer_half):
        tensors |= read_header(folder / name).tensors
    _check_settings(config, len(tensors), folder / "config.json")
    if config.get("_class_name") == "AutoencoderKL":
        return Component(config, _vae_weights_of_folder(tensors))
    return Component(config, unchanged(tensors.values()))


def component_files(folder: Path, prefer_half: bool) -> list[str]:
    """The names of the safetensors that hold a component.

    Raises:
        UserError: there are none, only pickles, or a shard is missing.
    """
    names = [entry.name for entry in folder.iterdir()]
    chosen = weight_files(names, prefer_half)
    if not chosen:
        if pickles := sorted(filter(is_pickle, names)):
            raise UserError(
                f"'{folder}' holds its weights in a pickle ('{pickles[0]}') alone, {RUNS_ANYTHING} With allow_pickle = true one is "
                "read where the model is a single file, not out of a folder."
            )
        raise UserError(f"'{folder}' holds no .safetensors file. Is the download complete?")
    for index in sorted(folder.glob("*.safetensors.index*.json")):
        listed = sorted(set(read_json(index)["weight_map"].values()))
        missing = [name for name in listed if name not in names]
        if set(chosen) & set(listed) and missing:
            raise UserError(
                f"'{folder}' lacks {', '.join(missing)}, which {index.name} names. Is the download complete?"
            )
    return chosen


def read_json(file: Path) -> dict[str, Any]:
    """A settings file.

    Raises:
        UserError: missing, unreadable or not a table in JSON.
    """
    try:
        settings = parse_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: the folder is not a complete diffusers model.") from error
    except OSError as error:
        raise UserError(f"'{file}' cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, DocumentError) as error:
        raise UserError(f"'{file}' is not readable JSON: {error}. Fetch the model again.") from error
    if not isinstance(settings, dict):
        raise UserError(f"'{file}' holds no settings: a table {{...}} is expected. Fetch the model again.")
    return settings


def _check_settings(config: Mapping[str, Any], tensors: int, file: Path) -> None:
    """A number or a list in a settings file can ask for modules without end; there are no more of them than tensors.

    Raises:
        UserError: a number is too large, or a list too long.
    """
    for name, value in _with_items(config):
        if isinstance(value, list):
            said, too_many = f"gives {len(value)} values of {name}", len(value) > tensors
        else:
            is_whole = isinstance(value, (int, float)) and value % 1 == 0
            said = f"says {name} = {value}"
            too_many = is_whole and abs(value) > (tensors if "layers" in name else WIDEST)
        if too_many:
            raise UserError(f"'{file}' {said}, which is no model of this kind. Fetch the model again.")


def _with_items(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and value of every setting, and of everything in those that are lists."""
    for name, value in settings.items():
        items = [value]
        while items:
            item = items.pop()
            yield name, item
            if isinstance(item, list):
                items += item


def _scheduler(path: Path) -> dict[str, Any]:
    file = path / "scheduler" / "scheduler_config.json"
    return read_json(file) if file.exists() else {}


def _vae_weights_of_folder(tensors: Mapping[str, StoredTensor]) -> Weights:
    """Older folders name the layers of the VAE's attention otherwise."""
    return {stored: (Placement(vae_name(name, levels=0)),) for name, stored in tensors.items() if stored.is_float}


def _not_a_model_folder(path: Path) -> str:
    index = path / "model_index.json"
    kind = read_json(index).get("_class_name", "") if index.exists() else ""
    if kind not in ("", "StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        return f"'{path}' is a model of the kind {kind}. Known families are SD 1.x, SD 2.x and SDXL."
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if files:
        return f"'{path}' is a folder of single files, not a diffusers model. Give one of the files: {', '.join(files[:5])}."
    return f"'{path}' is not a diffusers model: it has no folder 'unet'."
