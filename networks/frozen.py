"""What a network keeps as it was drawn, computed or read, and neither trains nor makes again from its settings alone."""

from __future__ import annotations

from torch import Tensor, nn

from networks.base import Network


def frozen_tensors(network: Network) -> dict[str, Tensor]:
    """Its own tensors that have no gradient, by name, where they are: LoRA-FA's down, PiSSA's factors, layers without a rate.

    Buffers that an adapter derives from its size or its host are not persistent, and not among them. What is inside of a network
    of sd-scripts' protocol is not known: it gives none.
    """
    if not isinstance(network, nn.Module):
        return {}
    everything = network.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in everything.items() if not tensor.requires_grad}
