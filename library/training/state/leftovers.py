"""What runs that were killed while they wrote have left: removed at the start of the next run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from library.config.schema import Config
from library.core.files import DAY, clear_leftovers
from library.data.cache.keys import cache_folder
from library.training.state.names import STATE, checkpoints

if TYPE_CHECKING:
    from accelerate import Accelerator


def clear_leftovers_of(config: Config, accelerator: Accelerator) -> None:
    """Remove half-written files of this run's name, and forgotten ones from the caches, before anybody looks for a state.

    Raises:
        UserError: they cannot be removed.
    """
    if accelerator.is_main_process:
        _clear(config)
    accelerator.wait_for_everyone()


def _clear(config: Config) -> None:
    folder, name = Path(config.saving.output_dir), config.saving.output_name
    beside = (".json", ".config.toml", ".preview.png", ".before_after.png")
    ours = checkpoints(name, STATE, ".safetensors", *beside)
    picture = re.compile(rf"{re.escape(name)}_e?\d{{6}}_\d\d_\d{{14}}_\d+\.png")
    clear_leftovers(folder, lambda found: bool(ours.fullmatch(found)))
    clear_leftovers(folder / "sample", lambda found: bool(picture.fullmatch(found)))
    for cache in ("latents", "texts", "pickles"):
        root = cache_folder(config.data.cache_dir) / cache
        for part in root.iterdir() if root.is_dir() else ():
            clear_leftovers(part, lambda found: True, older_than=DAY)
