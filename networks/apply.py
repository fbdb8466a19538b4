"""LoRA files put onto a model as they are, to generate with them or to merge them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.file import read_lora
from library.lora_files.keys import sites
from networks.algorithm import Algorithm, Size
from networks.inject import AdapterNetwork, tensors_by_site
from networks.rates import RateOptions
from networks.sizes import sizes_from_file


def apply_lora(path: Path, hosts: Mapping[str, nn.Module], family: str, multiplier: float = 1.0) -> AdapterNetwork:
    """Put a LoRA file onto the hosts at a strength; several may lie on one another.

    `detach()` of the network takes it off again, the last one first.

    Args:
        hosts: must hold every module that the file has weights for.

    Raises:
        UserError: the file cannot be read, or is not for these hosts.
    """
    tensors, metadata = read_lora(path)
    algorithm, sizes = recognise(tensors, metadata, path)
    network = AdapterNetwork(
        algorithm,
        find_sites=lambda hosts: sites(hosts, family, conv=True),
        size_of=sizes_from_file(sizes),
        rate_options=RateOptions(),
        block_weights=None,
        seed=0,
        described={},
    )
    try:
        network.attach(hosts)
        network.load_saved(tensors)
    except UserError as error:
        network.detach()
        raise UserError(f"{path.as_posix()} is not for this model ({family}): {error}") from error
    network.set_multiplier(multiplier)
    return network.eval().requires_grad_(False)


def recognise(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> tuple[Algorithm, dict[str, Size]]:
    """The registered algorithm that a file's tensors are of, and the size of each site.

    The one that the metadata names is tried first, then LoRA, then the others.

    Raises:
        UserError: none is.
    """
    order = [metadata.get("ss_network_module"), "networks.lora"]
    for name in sorted(NETWORKS.names(), key=lambda name: order.index(name) if name in order else len(order)):
        plugin = NETWORKS.get(name)
        if hasattr(plugin, "size_in_file"):
            algorithm: Algorithm = plugin(plugin.Options())
            sizes = sizes_in_file(algorithm, tensors)
            if sizes:
                return algorithm, sizes
    raise UserError(
        f"{path.as_posix()} is not a LoRA in the layout of sd-scripts (`lora_unet_....lora_down.weight`); "
        f"it begins with {', '.join(sorted(tensors)[:3])}."
    )


def sizes_in_file(algorithm: Algorithm, tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    """Rank and alpha of each site whose tensors are this algorithm's."""
    found = {key: algorithm.size_in_file(site_tensors) for key, site_tensors in tensors_by_site(tensors).items()}
    return {key: size for key, size in found.items() if size is not None}
