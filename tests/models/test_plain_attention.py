"""The UNet's use of attention."""

from __future__ import annotations

import pytest
import torch

from library.core.errors import UserError
from library.kernels.build import library
from library.models.plain_attention import PlainAttention, use_plain_attention


def distance(one, other):
    return (one.double() - other.double()).norm() / other.double().norm()


@pytest.mark.skipif(library() is None, reason="without the kernels both are the same")
def test_the_unet_predicts_and_learns_alike(tiny, load):
    outputs, gradients = [], []
    for attention in ("auto", "sdpa"):
        model = load(tiny("sd15", "folder"), dtype=torch.bfloat16, attention=attention)
        noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        conditioning = {"hidden": torch.randn(1, 77, 64, generator=torch.Generator().manual_seed(1))}
        predicted = model.predict(noisy, torch.tensor([10]), conditioning, torch.zeros(1, 6)).float()
        outputs.append(predicted)
        gradients += torch.autograd.grad(predicted.square().sum(), noisy)
    assert distance(outputs[0], outputs[1]) < 0.02
    assert distance(gradients[0], gradients[1]) < 0.03


def test_attention_that_does_more_is_refused(tiny, load):
    unet = load(tiny("sd15", "folder")).hosts(["unet"])["unet"]
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.norm_q = torch.nn.Identity()
    with pytest.raises(UserError, match=r"mid_block.*norm_q"):
        use_plain_attention(unet, compiles=False)


def test_other_uses_of_attention_are_refused():
    with pytest.raises(AssertionError):
        PlainAttention(compiles=True)(None, torch.empty(1, 2, 4), attention_mask=torch.ones(1, 2))
