from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from library.models.emphasis import count_tokens, parse_emphasis
from library.models.text import (
    Chunking,
    ClipStates,
    emphasised,
    encode,
    join_chunks,
    tokenize,
)

BOS, EOS, PAD = 900, 901, 0


@dataclass(frozen=True)
class WordTokenizer:
    """A number for every word: `7` is 7."""

    bos: int = BOS
    eos: int = EOS
    pad: int = PAD

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def fingerprint(self) -> str:
        return "words"


def words(count: int, first: int = 1) -> str:
    return " ".join(str(number) for number in range(first, first + count))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1.0),
                ("house", 1.3 * 1.1 * 1.1),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.1**4),
                (".", 1.1),
            ],
        ),
        ("[x]", [("x", 1 / 1.1)]),
        ("[[x]]", [("x", 1 / 1.1**2)]),
        ("a:b c)", [("a:b c)", 1.0)]),
        ("time 12:30)", [("time 12:30)", 1.0)]),
        (r"emma \(series\), (smile:1.2)", [("emma (series), ", 1.0), ("smile", 1.2)]),
        ("", [("", 1.0)]),
    ],
)
def test_emphasis_in_the_notation_of_a1111(prompt, expected):
    # the first six are the examples in the documentation of A1111's parser
    found = parse_emphasis(prompt)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@pytest.mark.parametrize("pad", [EOS, 0])
def test_a_short_prompt_is_start_words_end_padding(pad):
    ids, weights = tokenize(["1 2 3", ""], WordTokenizer(pad=pad), Chunking(window=77))
    assert ids.shape == (2, 1, 77)
    assert ids[0, 0].tolist() == [BOS, 1, 2, 3, EOS, *[pad] * 72]
    assert ids[1, 0].tolist() == [BOS, EOS, *[pad] * 75]
    assert weights is None


def sd_scripts_windows(numbers: list[int], chunks: int, pad: int) -> list[list[int]]:
    """The rule of sd-scripts in its own order: one long padded row, cut into windows of 75, then mended at the ends."""
    length = 75 * chunks + 2
    body = numbers[: length - 2]
    row = [BOS, *body, EOS, *[pad] * (length - 2 - len(body))]
    windows = []
    for start in range(1, length - 77 + 2, 75):
        window = [row[0], *row[start : start + 75], row[-1]]
        if pad != EOS:
            if window[-2] not in (EOS, pad):
                window[-1] = EOS
            if window[1] == pad:
                window[1] = EOS
        windows.append(window)
    return windows


@pytest.mark.parametrize("pad", [EOS, 0])
@pytest.mark.parametrize("count", [0, 1, 74, 75, 76, 149, 150, 151, 224, 225, 300])
def test_long_prompts_are_cut_as_sd_scripts_cuts_them(count, pad):
    ids, _ = tokenize([words(count)], WordTokenizer(pad=pad), Chunking(window=77, chunks=3))
    assert ids[0].tolist() == sd_scripts_windows(list(range(1, count + 1)), 3, pad)


def test_weights_stand_beside_their_tokens():
    chunking = Chunking(window=7, chunks=2, weighted=True)
    ids, weights = tokenize(["1 (2 3:1.5) 4 5 6 (7)"], WordTokenizer(), chunking)
    assert ids[0].tolist() == [[BOS, 1, 2, 3, 4, 5, EOS], [BOS, 6, 7, EOS, PAD, PAD, PAD]]
    assert weights[0].tolist() == [
        pytest.approx([1, 1, 1.5, 1.5, 1, 1, 1]),
        pytest.approx([1, 1, 1.1, 1, 1, 1, 1]),
    ]


def test_tokens_are_counted_whole_though_prompts_are_cut():
    assert count_tokens(words(300), WordTokenizer(), weighted=False) == 300
    assert count_tokens("(1 2:1.3) 3", WordTokenizer(), weighted=True) == 3


def test_inner_starts_and_ends_are_dropped():
    states_BnTD = torch.arange(3 * 7.0).reshape(1, 3, 7, 1)
    joined = join_chunks(states_BnTD)[0, :, 0].tolist()
    assert joined == [0, *range(1, 6), *range(8, 13), *range(15, 20), 20]


def test_emphasis_multiplies_the_states_of_its_tokens():
    states_BTD = torch.ones(1, 12, 4)
    weights_BnT = torch.tensor([[[1, 2, 3, 4, 5, 6, 1], [1, 7, 8, 9, 10, 11, 1]]], dtype=torch.float32)
    assert emphasised(states_BTD, weights_BnT)[0, :, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1]


@pytest.fixture(scope="module")
def clip():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=16, eos_token_id=EOS, bos_token_id=BOS, pad_token_id=PAD,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config).eval().requires_grad_(False)


def layer_outputs(clip, ids_BT):
    """The output of every layer, caught on its way."""
    caught = []
    handles = [
        layer.register_forward_hook(
            lambda module, args, output: caught.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in clip.text_model.encoder.layers
    ]
    result = clip(ids_BT)
    for handle in handles:
        handle.remove()
    return caught, result


@pytest.mark.parametrize("skip", [1, 2, 4])
@pytest.mark.parametrize("normed", [True, False])
def test_clip_skip_counts_layers_from_the_end(clip, skip, normed):
    ids, _ = tokenize(["1 2 3", words(80)], WordTokenizer(), Chunking(window=77))
    hidden, pooled = encode(clip, ids, EOS, ClipStates(layer=skip, normed=normed, pooled=False))
    expected = layer_outputs(clip, ids[:, 0])[0][-skip]
    expected = clip.text_model.final_layer_norm(expected) if normed else expected
    torch.testing.assert_close(hidden, expected)
    assert pooled is None


def test_the_pooled_state_is_the_first_chunks_end_token(clip):
    ids, _ = tokenize(["1 2 3", words(100)], WordTokenizer(), Chunking(window=77, chunks=2))
    hidden, pooled = encode(clip, ids, EOS, ClipStates(layer=2, normed=False, pooled=True))
    assert hidden.shape == (2, 152, 32)
    torch.testing.assert_close(pooled, layer_outputs(clip, ids[:, 0])[1].text_embeds)


def test_chunks_are_encoded_each_by_itself(clip):
    ids, _ = tokenize([words(100)], WordTokenizer(), Chunking(window=77, chunks=2))
    hidden, _ = encode(clip, ids, EOS, ClipStates(layer=1, normed=True, pooled=False))
    alone = [clip.text_model(ids[:, chunk]).last_hidden_state for chunk in (0, 1)]
    torch.testing.assert_close(hidden[:, :76], alone[0][:, :76])
    torch.testing.assert_close(hidden[:, 76:], alone[1][:, 1:])
