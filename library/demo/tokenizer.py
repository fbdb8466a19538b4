"""Writes CLIP's byte-pair vocabulary (49,408 tokens, MIT licence) in the layout that transformers reads.

The merges come from `bpe_simple_vocab_16e6.txt.gz` of OpenAI's CLIP, which the package open_clip_torch carries:
`python -m library.demo.tokenizer path/to/bpe_simple_vocab_16e6.txt.gz demo/model/tokenizer`.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

MERGES = 49152 - 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(vocabulary_file: Path, out: Path) -> None:
    """Write vocab.json, merges.txt and the two config files of a CLIPTokenizer."""
    merges = gzip.decompress(vocabulary_file.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    letters = byte_letters()
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *(merge.replace(" ", "") for merge in merges),
        START,
        END,
    ]
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = special | {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "vocab.json", _compact({token: index for index, token in enumerate(tokens)}))
    _write(out / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
    _write(out / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    _write(out / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, in CLIP's order: printable ones first, as themselves (Radford et al. 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _compact(content: dict[str, int]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_tokenizer(Path(sys.argv[1]), Path(sys.argv[2]))
