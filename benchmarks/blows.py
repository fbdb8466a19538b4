"""A run of the real entry point that gets a real signal while it does a chosen thing.

python -m benchmarks.blows '{"moment": "saving", "count": 2, "delay": 0.01}' --config my.toml ...
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any

MOMENTS = {
    "caching": ("library.data.cache.store", "TensorCache", "put"),
    "step": ("library.training.step", "Trainer", "reduce_gradients"),
    "update": ("library.training.step", "Trainer", "update_weights"),
    "saving": ("library.training.state.saving", None, "save_lora"),
    "saving a state": ("library.training.state.saving", None, "save_state"),
    "sampling": ("library.training.preview", "Preview", "_paint"),
    "validation": ("library.training.validation", "Validation", "losses"),
}
"""What a run does -> the function that does it."""


@dataclass(frozen=True)
class Blow:
    """A signal that a run gets."""

    moment: str
    """One of MOMENTS."""
    count: int
    """Which time it is done, from 1."""
    delay: float = 0.0
    """Seconds after it has begun."""
    number: int = signal.SIGKILL
    again: float | None = None
    """Seconds after which the signal comes again; what the run does then takes longer."""

    def aim(self) -> None:
        """Let it fall when the moment has come for the `count`th time in this process."""
        module_name, class_name, function_name = MOMENTS[self.moment]
        holder: Any = import_module(module_name)
        if class_name is not None:
            holder = getattr(holder, class_name)
        function: Callable[..., Any] = getattr(holder, function_name)
        times = 0

        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal times
            times += 1
            if times == self.count:
                self._fall()
            return function(*args, **kwargs)

        setattr(holder, function_name, counted)

    def _fall(self) -> None:
        _strike(self.delay, self.number)
        if self.again is not None:
            _strike(self.delay + self.again, self.number)
            time.sleep(self.again + 5)


def _strike(delay: float, number: int) -> None:
    if delay:
        threading.Timer(delay, os.kill, (os.getpid(), number)).start()
    else:
        os.kill(os.getpid(), number)


def main() -> int:
    """Aim, and train."""
    import train_network
    from library.core.runtime import run_command

    Blow(**json.loads(sys.argv[1])).aim()
    sys.argv = ["train_network.py", *sys.argv[2:]]
    return run_command(train_network.main)


if __name__ == "__main__":
    sys.exit(main())
