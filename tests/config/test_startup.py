"""Help and mistakes show at once: nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from library.config.places import PROJECT_ROOT

HEAVY = ("torch", "diffusers", "transformers", "accelerate", "numpy", "PIL", "tensorboard", "bitsandbytes")
RUN = f"""
import sys, time
from library.config.load import load_config
from library.core.errors import UserError
try:
    load_config(sys.argv[1:])
except (UserError, SystemExit) as end:
    print("ended with", type(end).__name__)
print("seconds:", time.process_time())
print("heavy:", [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("argv", "end"),
    [
        (["--help"], "SystemExit"),
        (["--config", "character", "--explain"], "SystemExit"),
        (["--config", "character", "--network_dimm", "3"], "UserErrors"),
        (["--config", "character"], None),
    ],
)
def test_the_configuration_is_read_within_half_a_second_and_without_torch(argv: list[str], end: str | None) -> None:
    seconds = []
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", RUN, *argv],
            capture_output=True,
            text=True,
            cwd=PROJECT_ROOT,
            check=True,
            encoding="utf-8",
        )
        assert "heavy: []" in ran.stdout
        assert end is None or f"ended with {end}" in ran.stdout
        seconds.append(float(ran.stdout.split("seconds: ")[1].split()[0]))
        if seconds[-1] < 0.5:
            break
    # Processor time, the interpreter's start included: on a quiet machine this is what one waits, and other tests that run
    # beside this one do not lengthen it much.
    assert min(seconds) < 0.5, seconds
