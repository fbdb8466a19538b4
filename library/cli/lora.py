"""Tools on LoRA files: look into them, put them together, make them smaller, bring them into another form.

dojo lora inspect alexander.safetensors
"""

from __future__ import annotations

from collections.abc import Sequence

from library.cli.arguments import dispatch

TOOLS = {
    "inspect": "what a file holds: settings, trigger words, ranks, and how strongly it changes each block",
    "merge": "several LoRAs into one, or LoRAs into a checkpoint",
    "resize": "a LoRA of lower rank that does nearly the same",
    "extract": "a LoRA from the difference of two checkpoints",
    "convert": "the same LoRA under the names of another program: kohya, diffusers/PEFT",
    "rename-trigger": "another trigger word in what a file says of itself",
}


def main(argv: Sequence[str]) -> int | None:
    """Run one tool; each is a module of `library.cli.lora_tools` with `main(argv)`."""
    return dispatch("dojo lora", __doc__, TOOLS, "library.cli.lora_tools.", argv)
