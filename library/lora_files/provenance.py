"""What a LoRA file says of itself that was made from other files rather than trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from library.lora_files.metadata import GENERATIVE_MODELS, architecture, as_text, base_version

BASE_MODEL = (
    "ss_base_model_version",
    "ss_v2",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.resolution",
)
"""Entries on the model that a LoRA is for."""


@dataclass(frozen=True)
class Source:
    """A LoRA file that another is made from."""

    path: Path
    strength: float
    metadata: Mapping[str, str]

    @property
    def title(self) -> str:
        """As it calls itself, else its file's name."""
        return self.metadata.get("modelspec.title") or self.path.stem


@dataclass(frozen=True)
class Shape:
    """Ranks and alpha of the new file, as its metadata says them."""

    dim: str
    """A rank, or "Dynamic" where ranks differ by layer, as sd-scripts writes it."""
    alpha: float
    conv_dim: int | None = None

    def entries(self) -> dict[str, str]:
        """`ss_network_*`."""
        args = {} if self.conv_dim is None else {"conv_dim": str(self.conv_dim), "conv_alpha": str(self.alpha)}
        return {
            "ss_network_module": "networks.lora",
            "ss_network_dim": self.dim,
            "ss_network_alpha": str(self.alpha),
            "ss_network_args": as_text(args),
        }


def fresh_metadata(out: Path, family: str, shape: Shape, base: Mapping[str, str], now: datetime) -> dict[str, str]:
    """What every new file says.

    Args:
        base: entries on the base model; the family's own are taken where they are missing.
    """
    predicts_v = base.get("modelspec.prediction_type") == "v"
    return {
        "ss_base_model_version": base_version(family, predicts_v),
        "ss_v2": str(family == "sd2"),
        "ss_output_name": out.stem,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(family, predicts_v),
        "modelspec.implementation": GENERATIVE_MODELS if family == "sdxl" else "diffusers",
        "modelspec.title": out.stem,
        "modelspec.date": now.replace(microsecond=0).isoformat(),
        **{name: value for name, value in base.items() if name in BASE_MODEL and value},
        **shape.entries(),
    }


def merged_metadata(out: Path, family: str, shape: Shape, sources: Sequence[Source], now: datetime) -> dict[str, str]:
    """Of a LoRA put together from others: their base model, their tags and trigger words, and what went in."""
    base: dict[str, str] = {}
    for source in sources:
        base = {**{name: source.metadata.get(name, "") for name in BASE_MODEL if name in source.metadata}, **base}
    triggers = dict.fromkeys(filter(None, (each.metadata.get("modelspec.trigger_phrase") for each in sources)))
    tags = _tags(sources)
    return {
        **fresh_metadata(out, family, shape, base, now),
        **merge_note(sources),
        **({"modelspec.trigger_phrase": ", ".join(triggers)} if triggers else {}),
        **({"ss_tag_frequency": json.dumps(tags)} if tags else {}),
    }


def merge_note(sources: Sequence[Source]) -> dict[str, str]:
    """What was put together, at which strengths."""
    parts = [
        {
            "file": each.path.name,
            "strength": each.strength,
            **({"hash": each.metadata["sshs_model_hash"]} if "sshs_model_hash" in each.metadata else {}),
        }
        for each in sources
    ]
    return {
        "modelspec.merged_from": ", ".join(each.title for each in sources),
        "ss_merged_from": json.dumps(parts),
    }


def resized_metadata(metadata: Mapping[str, str], shape: Shape, how: str, former: str) -> dict[str, str]:
    """Of a LoRA at another rank: what it said before, but for the network's form, and what was done, in the words of sd-scripts.

    All of `ss_network_*` gives way: ranks, alphas, dropouts and scalings of the former network are not those of the new file.
    """
    kept = {name: value for name, value in metadata.items() if not name.startswith("ss_network_")}
    comment = metadata.get("ss_training_comment", "None")
    remark = "" if comment in ("", "None") else f"; {comment}"
    return {**kept, **shape.entries(), "ss_training_comment": f"{how} from {former}{remark}"}


def _tags(sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """How often each tag stood in the captions, by folder, over all files; what is no such table is left out."""
    folders: dict[str, Counter[str]] = {}
    for source in sources:
        try:
            table = json.loads(source.metadata.get("ss_tag_frequency", "{}"))
        except ValueError:
            continue
        for folder, counts in table.items() if isinstance(table, dict) else ():
            if isinstance(counts, dict) and all(isinstance(count, int) for count in counts.values()):
                folders.setdefault(folder, Counter()).update(counts)
    return {folder: dict(counts) for folder, counts in folders.items()}
