"""The compiled attention against the formula in fp64, and the UNet's use of it."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch

from library.core.errors import UserError
from library.models.attention import compiled
from library.models.attention.compiled import compiled_attention, suits
from library.models.attention.processor import PlainAttention, use_plain_attention

needs_kernel = pytest.mark.skipif(
    not torch.cpu._is_avx512_bf16_supported() or compiled.library() is None,
    reason="the kernel is for processors with AVX512-BF16, and is built by a C compiler",
)

# samples, queries, keys, heads, width: SD 1.5's levels, cross-attention, odd sizes, several blocks and spans, one wide head
SIZES = [(1, 1024, 1024, 2, 40), (1, 300, 77, 8, 80), (2, 16, 77, 4, 160), (3, 7, 5, 2, 2), (1, 1100, 600, 1, 64), (1, 65, 513, 1, 512)]  # fmt: skip


def formula(q, k, v, heads):
    split = [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v)]
    scores = split[0] @ split[1].transpose(-1, -2) / math.sqrt(split[0].shape[-1])
    return (scores.softmax(-1) @ split[2]).transpose(1, 2).flatten(2)


def draw(samples, queries, keys, heads, width, spread=1.0):
    generator = torch.Generator().manual_seed(queries)
    shapes = [(samples, tokens, heads * width) for tokens in (queries, keys, keys)]
    return [(torch.randn(shape, generator=generator) * spread).bfloat16().requires_grad_() for shape in shapes]


def distance(one, exact):
    return (one.double() - exact).norm() / exact.norm()


@needs_kernel
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("spread", [1.0, 6.0])
def test_output_and_gradients(size, spread):
    inputs, heads = draw(*size, spread=spread), size[3]
    exact = [each.detach().double().requires_grad_() for each in inputs]
    out, expected = compiled_attention(*inputs, heads), formula(*exact, heads)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = torch.autograd.grad(out, inputs, grad)
    assert distance(out, expected) < 0.005
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, exact, grad.double())):
        assert distance(mine, theirs) < 0.01 * spread


@needs_kernel
def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    inputs = draw(2, 200, 130, 4, 40)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out = compiled_attention(*inputs, 4)
        found.append([out, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@needs_kernel
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_broken_value_is_not_hidden(which, broken):
    inputs = [each.detach().clone() for each in draw(1, 70, 70, 2, 16)]
    inputs[which][0, 3, 5] = broken
    out = compiled_attention(*inputs, 2)
    assert not out[..., :16].isfinite().all()
    assert out[..., 16:].isfinite().all()


@needs_kernel
def test_the_unet_predicts_and_learns_alike(tiny, load):
    outputs, gradients = [], []
    for attention in ("auto", "sdpa"):
        model = load(tiny("sd15", "folder"), dtype=torch.bfloat16, attention=attention)
        noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        conditioning = {"hidden": torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1))}
        predicted = model.predict(noisy, torch.tensor([10]), conditioning, torch.zeros(1, 6)).float()
        outputs.append(predicted)
        gradients += torch.autograd.grad(predicted.square().sum(), noisy)
    assert distance(outputs[0], outputs[1].double()) < 0.02
    assert distance(gradients[0], gradients[1].double()) < 0.03


def test_what_it_suits(monkeypatch):
    monkeypatch.setattr(compiled, "library", lambda: object())
    assert suits(torch.empty(1, 5, 64, dtype=torch.bfloat16), heads=4)
    assert not suits(torch.empty(1, 5, 64), heads=4)
    assert not suits(torch.empty(1, 5, 60, dtype=torch.bfloat16), heads=4), "the width of a head must be even"
    assert not suits(torch.empty(1, 5, 64, dtype=torch.bfloat16, device="meta"), heads=4)


@needs_kernel
@pytest.mark.parametrize("wrong", [{"dtype": torch.float32}, {"size": (2, 9, 16)}, {"size": (1, 9, 8)}])
def test_tensors_that_do_not_belong_together_are_not_read(wrong):
    q = torch.zeros(1, 9, 16, dtype=torch.bfloat16)
    other = torch.zeros(wrong.get("size", (1, 9, 16)), dtype=wrong.get("dtype", torch.bfloat16))
    with pytest.raises(AssertionError):
        compiled_attention(q, other, other, 2)


def test_attention_that_does_more_is_refused(tiny, load):
    unet = load(tiny("sd15", "folder")).hosts(["unet"])["unet"]
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.norm_q = torch.nn.Identity()
    with pytest.raises(UserError, match=r"mid_block.*norm_q"):
        use_plain_attention(unet, compiles=False)


def test_without_a_compiler_pytorch_computes(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(compiled, "_folder", lambda: tmp_path)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert compiled.library.__wrapped__() is None
    assert "no C compiler" in caplog.text


def test_a_user_without_a_home_gets_pytorchs_attention(monkeypatch, caplog):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compiled.Path, "home", homeless)
    assert compiled.library.__wrapped__() is None
    assert "home directory" in caplog.text


def test_a_compiler_that_fails_is_told_of(monkeypatch, tmp_path, caplog):
    failing = tmp_path / "cc"
    failing.write_text("#!/bin/sh\necho 'kernel.c: this processor is not for me' >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(compiled, "_folder", lambda: tmp_path / "built")
    monkeypatch.setattr(compiled.shutil, "which", lambda name: str(failing))
    assert compiled.library.__wrapped__() is None
    assert "this processor is not for me" in caplog.text
    assert not [file for file in (tmp_path / "built").iterdir() if file.suffix == ".so"]


def test_the_structure_has_the_kernels_layout():
    assert ctypes.sizeof(compiled.Shape) == 48


def test_other_uses_of_attention_are_refused():
    with pytest.raises(AssertionError):
        PlainAttention(compiles=True)(None, torch.empty(1, 2, 4), attention_mask=torch.ones(1, 2))
