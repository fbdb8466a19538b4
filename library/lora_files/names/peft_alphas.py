"""Alphas of files in PEFT's style, which holds them outside the tensors.

diffusers writes PEFT's LoraConfig into the file's header (`lora_adapter_metadata`), PEFT itself into `adapter_config.json`
beside the file. Where neither is, alpha is the rank, as diffusers reads such a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.lora_files.names.module_names import ModuleName

HEADER_ENTRY = "lora_adapter_metadata"
CONFIG_FILE = "adapter_config.json"
HOSTS = {"unet": "unet", "te1": "text_encoder", "te2": "text_encoder_2"}


@dataclass(frozen=True)
class PeftScales:
    """What PEFT's configuration says of alpha, by host ("" for any host)."""

    configs: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> PeftScales:
        """From a file's header, whose entries read `unet.lora_alpha`, `text_encoder.alpha_pattern` and so on.

        Raises:
            UserError: it is no table.
        """
        if HEADER_ENTRY not in metadata:
            return cls({})
        entries = _table(metadata[HEADER_ENTRY], f"the metadata {HEADER_ENTRY}")
        configs: dict[str, dict[str, Any]] = {}
        for name, value in entries.items():
            host, _, setting = name.partition(".")
            configs.setdefault(host, {})[setting] = value
        return cls(configs)

    @classmethod
    def beside(cls, file: Path) -> PeftScales | None:
        """From PEFT's own configuration beside the file; None where there is none.

        Raises:
            UserError: it is no table.
        """
        config = file.with_name(CONFIG_FILE)
        if not config.is_file():
            return None
        return cls({"": _table(config.read_text(encoding="utf-8", errors="replace"), config.as_posix())})

    def alpha(self, module: ModuleName, rank: int) -> float:
        """Alpha of a module in the sense of alpha / rank.

        Raises:
            UserError: the configuration's alpha is no number.
        """
        config = self.configs.get(HOSTS[module.host], self.configs.get("", {}))
        chosen = config.get("lora_alpha")
        patterns = config.get("alpha_pattern")
        for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
            if _matches(pattern, module.path):
                chosen = value
                break
        if chosen is None:
            return float(rank)
        if isinstance(chosen, bool) or not isinstance(chosen, int | float) or not math.isfinite(chosen):
            raise UserError(f"PEFT's configuration gives {module.path} the alpha {chosen!r}, which is not a number.")
        # rsLoRA scales by alpha / sqrt(rank)
        return float(chosen) * math.sqrt(rank) if config.get("use_rslora") else float(chosen)


def _matches(pattern: str, path: str) -> bool:
    """As PEFT matches: the pattern is the end of the module's path, from a dot on, or with ^ the whole of it.

    diffusers writes plain names; an expression from a file is not run, since it could take forever.
    """
    for name in (path, path.removeprefix("text_model.")):
        if name == pattern.removeprefix("^") or (not pattern.startswith("^") and name.endswith(f".{pattern}")):
            return True
    return False


def _table(text: str, origin: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except DocumentError as error:
        raise UserError(f"{origin} is not JSON ({error}): the file is damaged.") from error
    if not isinstance(found, dict):
        raise UserError(f"{origin} is not a table: the file is damaged.")
    return found
