"""Before the second stage: the demo model's text encoder learns to read captions.

CLIP's text encoder knows its words before Stable Diffusion is trained on it. This one is taught by a small exam: from its
states at the end of a caption a linear layer must tell what the caption says of hair colour, outfit, pose and so on. Which
colour belongs to which thing is learnt from that in minutes, and from the diffusion loss alone only in hours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from library.demo.captions import caption, tag_groups, told, training_caption
from library.demo.look import Look

TEXT_WIDTH = 64
RESERVED_NAMES = ("alexander", "kungfustyle")


def build_text_encoder(vocabulary_size: int) -> CLIPTextModel:
    """CLIP's text transformer in small, over CLIP's whole vocabulary."""
    config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=vocabulary_size - 1,
    )
    return CLIPTextModel(config)


class TagReader(nn.Module):
    """The text encoder, and one classifier for each group of tags on its mean state over the end tokens."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.sizes = [1 + len(values) for values in tag_groups().values()]
        self.exam = nn.Linear(TEXT_WIDTH, sum(self.sizes))

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, ...]:
        """Logits of each group, (B, values) a group."""
        states_BLC = self.text_encoder(tokens_BL).last_hidden_state
        ends_BL1 = tokens_BL.eq(tokens_BL.max())[..., None]  # the end token is the last of the vocabulary
        mean_BC = (states_BLC * ends_BL1).sum(dim=1) / ends_BL1.sum(dim=1)
        return self.exam(mean_BC).split(self.sizes, dim=1)


class ReadingLoss:
    """Cross-entropy of what captions tell; the figure for the log is the share of wrong answers."""

    def __init__(self, reader: TagReader, tokenizer: CLIPTokenizer, looks: Sequence[Look]) -> None:
        self._reader, self._tokenizer, self._looks = reader, tokenizer, looks
        self._names = name_words(tokenizer, looks)

    def __call__(self, indices_B: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        captions = [training_caption(self._looks[index], self._names, rng) for index in indices_B.tolist()]
        answers_BG = torch.tensor([told(text) for text in captions])
        logits_G = self._reader(tokenize(self._tokenizer, captions))
        losses = [F.cross_entropy(logits_BV.float(), answers_BG[:, group]) for group, logits_BV in enumerate(logits_G)]
        wrong = [(logits.argmax(dim=1) != answers_BG[:, group]).float().mean() for group, logits in enumerate(logits_G)]
        return torch.stack(losses).mean(), torch.stack(wrong).mean()


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, 77), padded and cut as Stable Diffusion does."""
    return tokenizer(
        list(captions), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    ).input_ids


def name_words(tokenizer: CLIPTokenizer, looks: Sequence[Look]) -> list[str]:
    """Whole words of the vocabulary that share no token with the captions or with the examples' trigger words."""
    texts = {caption(look) for look in looks[:2000]} | set(RESERVED_NAMES)
    taken = {token for ids in tokenizer(sorted(texts)).input_ids for token in tokenizer.convert_ids_to_tokens(ids)}
    words = sorted(
        token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.endswith("</w>") and token not in taken
    )
    return [word for word in words if len(word) > 3 and word.isascii() and word.isalpha()]
