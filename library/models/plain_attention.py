"""Attention in the UNet: the projections' outputs go into the kernel as they are, with no more operators than that takes.

Letters: B samples, T queries, S keys, C channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from library.core.errors import UserError
from library.kernels.attention import compiled_attention, suits


def use_plain_attention(unet: Any, compiles: bool) -> None:
    """Let every attention of a UNet be computed by `PlainAttention`.

    Raises:
        UserError: the UNet's attention does more than that of Stable Diffusion.
    """
    from diffusers.models.attention_processor import Attention

    for path, attn in unet.named_modules():
        if isinstance(attn, Attention) and (feature := _further_feature(attn)):
            raise UserError(
                f"the UNet's attention '{path}' has '{feature}', which Stable Diffusion's has not: is its config.json that of "
                "another model?"
            )
    unet.set_attn_processor(PlainAttention(compiles))


class PlainAttention:
    """A diffusers attention processor for the attention of Stable Diffusion's UNets: tokens in, tokens out, no mask.

    Args:
        compiles: whether our CPU kernel may be used where it suits; else PyTorch's fused attention always is.
    """

    def __init__(self, compiles: bool) -> None:
        self.compiles = compiles

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: object
    ) -> Tensor:
        assert all(value is None for value in unused.values()), f"not for Stable Diffusion's UNet: {unused}"
        context_BSC = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q_BTC, k_BSC, v_BSC = attn.to_q(hidden_states), attn.to_k(context_BSC), attn.to_v(context_BSC)
        if self.compiles and suits(q_BTC, attn.heads):
            out_BTC = compiled_attention(q_BTC, k_BSC, v_BSC, attn.heads)
        else:
            split = [each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in (q_BTC, k_BSC, v_BSC)]
            out_BTC = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        return attn.to_out[0](out_BTC)


def _further_feature(attn: Any) -> str | None:
    """The name of something that this attention does and `PlainAttention` does not."""
    further = (
        "group_norm",
        "spatial_norm",
        "norm_cross",
        "norm_q",
        "norm_k",
        "residual_connection",
        "added_kv_proj_dim",
    )
    if attn.rescale_output_factor != 1:
        return "rescale_output_factor"
    return next((name for name in further if getattr(attn, name, None)), None)
