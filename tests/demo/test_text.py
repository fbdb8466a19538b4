"""The text encoder's exam: its answers belong to the right groups, and it can be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from library.demo.captions import tag_groups
from library.demo.look import random_look
from library.demo.text import ReadingLoss, TagReader, build_text_encoder, tokenize

FOLDER = Path(__file__).parents[2] / "demo" / "model" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(FOLDER)


def test_there_is_one_answer_a_value_and_one_for_untold(tokenizer):
    torch.manual_seed(0)
    reader = TagReader(build_text_encoder(len(tokenizer)))
    logits = reader(tokenize(tokenizer, ["", "fighter, red hair"]))
    assert [part.shape for part in logits] == [(2, 1 + len(values)) for values in tag_groups().values()]


def test_the_exam_can_be_learnt(tokenizer):
    torch.manual_seed(0)
    reader = TagReader(build_text_encoder(len(tokenizer)))
    looks = [random_look(seed) for seed in range(8)]
    loss_of = ReadingLoss(reader, tokenizer, looks)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=5e-3)
    losses = []
    for step in range(12):
        loss, wrong = loss_of(torch.arange(8), torch.Generator().manual_seed(step))
        assert 0 <= wrong <= 1
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
