"""Models with random weights and the published shapes, or tiny ones: what the project tests and times itself on.

python -m library.models.random_weights --family sd15 --tiny --format folder --out tiny-sd15
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from library.core.errors import UserError
from library.core.files import new_folder, write_atomically
from library.core.runtime import run_command
from library.models.published import VOCABULARY, WINDOW, Recipe, recipe
from library.models.to_original import original_checkpoint

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FAMILIES = ("sd15", "sd2", "sd2_v", "sdxl")


def write_folder(made_of: Recipe, out: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
    """A model in the diffusers layout."""
    modules = random_modules(made_of, dtype, seed)
    with new_folder(out) as folder:
        for name, module in modules.items():
            module.save_pretrained(folder / name)  # type: ignore[operator]
        for number in range(len(made_of.text_encoders)):
            _write_tokenizer(folder / ("tokenizer" if number == 0 else "tokenizer_2"), _pad_token(made_of, number))
        _write_json(folder / "scheduler" / "scheduler_config.json", made_of.scheduler)
        _write_json(folder / "model_index.json", _model_index(made_of))


def write_single_file(
    made_of: Recipe, out: Path, dtype: torch.dtype = torch.float32, seed: int = 0, marks: tuple[str, ...] = ()
) -> None:
    """The same model in one file in the original layout.

    Args:
        marks: empty keys to add: `v_pred`, `ztsnr`.
    """
    from safetensors.torch import save_file

    parts = {name: module.state_dict() for name, module in random_modules(made_of, dtype, seed).items()}
    tensors = original_checkpoint(parts, made_of.family) | {mark: torch.zeros(0) for mark in marks}
    write_atomically(out, lambda path: save_file(tensors, path))


def random_modules(made_of: Recipe, dtype: torch.dtype, seed: int) -> dict[str, nn.Module]:
    """The model's modules by component name, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    modules = empty_modules(made_of)
    for module in modules.values():
        state = {name: _random(name, value, dtype, generator) for name, value in module.state_dict().items()}
        module.load_state_dict(state, assign=True)
    return modules


def empty_modules(made_of: Recipe) -> dict[str, nn.Module]:
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with init_empty_weights(include_buffers=False):
        modules: dict[str, Any] = {
            "unet": UNet2DConditionModel(**made_of.unet),
            "vae": AutoencoderKL(**made_of.vae),
        }
        for number, settings in enumerate(made_of.text_encoders):
            name, architecture = (
                ("text_encoder_2", CLIPTextModelWithProjection) if number else ("text_encoder", CLIPTextModel)
            )
            modules[name] = architecture(CLIPTextConfig(**settings))
    return modules


def _random(name: str, empty: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Values under which activations keep their size: norms at one, biases at zero, matrices by their inputs."""
    value = torch.zeros(empty.shape, dtype=dtype)
    if value.ndim < 2:
        return value if name.endswith("bias") else value + 1
    if "embedding" in name and "linear" not in name:
        return value.normal_(0, 0.02, generator=generator)
    bound = (value[0].numel()) ** -0.5
    return value.uniform_(-bound, bound, generator=generator)


def _write_tokenizer(folder: Path, pad_token: str) -> None:
    """A CLIP tokenizer whose words are single bytes: the numbers of start, end and padding are CLIP's."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet(), key=lambda letter: (letter != "!", letter))
    words = letters + [letter + "</w>" for letter in letters]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], pad_token=pad_token, model_max_length=WINDOW)
    tokenizer.save_pretrained(folder)


def _pad_token(made_of: Recipe, number: int) -> str:
    return "!" if made_of.text_encoders[number]["hidden_act"] == "gelu" else "<|endoftext|>"


def _model_index(made_of: Recipe) -> Mapping[str, Any]:
    second = {
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    without = {"feature_extractor": [None, None], "image_encoder": [None, None]}
    if made_of.family != "sdxl":
        without["safety_checker"] = [None, None]
    return {
        "_class_name": "StableDiffusionXLPipeline" if made_of.family == "sdxl" else "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        **(second if made_of.family == "sdxl" else {}),
        **without,
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


def main(argv: Sequence[str] | None = None, program: str | None = None) -> None:
    """The command line.

    Args:
        program: what is typed before the options; None: what was run.
    """
    parser = argparse.ArgumentParser(program, description="Write a model with random weights, to test and time with.")
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--tiny", action="store_true", help="a model of a few megabytes instead of the full size")
    parser.add_argument("--format", choices=["folder", "single_file"], default="folder")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder, or .safetensors file")
    given = parser.parse_args(argv)
    made_of = recipe(given.family, given.tiny)
    if given.format == "folder":
        write_folder(made_of, given.out, DTYPES[given.dtype], given.seed)
    elif given.out.suffix == ".safetensors":
        write_single_file(made_of, given.out, DTYPES[given.dtype], given.seed)
    else:
        raise UserError(f"--out '{given.out}' must end in .safetensors for a single file.")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
