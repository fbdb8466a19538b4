"""Captions in sentences, by any image-to-text model that transformers knows, from a folder on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from library.core.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

PROMPT = "Describe this picture in one sentence."
"""For models that are talked to, where no other is given."""


@dataclass(frozen=True)
class Wording:
    """How captions are made."""

    prompt: str = ""
    """What the model is asked, or how its captions begin; "" asks models that are talked to for a sentence, and others for nothing."""
    num_beams: int = 1
    max_length: int = 75
    """Tokens that it may write."""


class Captioner:
    """Describes pictures in a sentence.

    Args:
        folder: a model and its processor as transformers saves them.
        wording: how captions are made.
        device: "cpu", "cuda", or "auto" for a GPU where there is one.
        dtype: "fp32", "fp16", "bf16", or "auto": bf16 on a GPU, fp32 elsewhere.
        allow_pickle: also read weights that are no safetensors, without running what is in them.

    Raises:
        UserError: the folder holds no such model, or there is no GPU.
    """

    def __init__(
        self, folder: Path, wording: Wording, device: str = "auto", dtype: str = "auto", allow_pickle: bool = False
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda, but there is no GPU that PyTorch can use here. Leave it out, or say cpu.")
        has_gpu = device != "cpu" and torch.cuda.is_available()
        self._device = torch.device("cuda" if has_gpu else "cpu")
        self._dtype = DTYPES[("bf16" if has_gpu else "fp32") if dtype == "auto" else dtype]
        self._wording = wording
        self._processor, model = _loaded(folder, self._dtype, allow_pickle)
        self._model = model.to(self._device).eval()
        self._talks = getattr(self._processor, "chat_template", None) is not None

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """A sentence for each of the upright RGB pictures of any size."""
        inputs = self._inputs(list(images))
        made = self._model.generate(
            **inputs, num_beams=self._wording.num_beams, max_new_tokens=self._wording.max_length, do_sample=False
        )
        if self._talks:
            made = made[:, inputs["input_ids"].shape[1] :]
        texts = self._processor.batch_decode(made, skip_special_tokens=True)
        return [" ".join(text.split()) for text in texts]

    def _inputs(self, images: list[Image.Image]) -> dict[str, Any]:
        prompt = self._wording.prompt
        if self._talks:
            asked = [{"type": "image"}, {"type": "text", "text": prompt or PROMPT}]
            prompt = self._processor.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
            )
        words = {"text": [prompt] * len(images), "padding": True} if prompt else {}
        inputs = self._processor(images=images, return_tensors="pt", **words)
        return {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor)
        }


def _loaded(folder: Path, dtype: torch.dtype, allow_pickle: bool) -> tuple[Any, Any]:
    """Processor and model; code that lies in the folder is not run."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no config.json. --captioner names a folder with an image-to-text model as transformers saves it."
        )
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    safe = {} if allow_pickle else {"use_safetensors": True}
    try:
        processor = AutoProcessor.from_pretrained(folder, **local)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **local, **safe)
    except ImportError as error:
        raise UserError(
            f"the captioner in {folder} needs a package that is not installed: {str(error).strip()} Install it, and start again."
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"the weights of the captioner in {folder} cannot be loaded: {str(error).strip()} Where they do not fit its config.json, "
            "download both again from one place."
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the captioner in {folder} cannot be loaded: {error} Folders of BLIP, BLIP-2, GIT, Florence-2, LLaVA and their like can be, "
            "with config.json, the processor's files and weights as safetensors (--allow_pickle reads .bin files too)."
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        tokenizer.padding_side = "left"  # new words are written behind the prompt, not behind its padding
    return processor, model
