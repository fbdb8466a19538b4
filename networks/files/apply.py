"""LoRA files put onto a model as they are, to generate with them or to merge them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from library.config.catalog import by_any_name, declarations
from library.config.options import parse_options
from library.core.documents import DocumentError, parse_json
from library.core.errors import UserError
from library.core.registry import NETWORKS
from library.lora_files.names.keys import Site, sites
from library.lora_files.reading import read_for_model, tensors_by_site
from networks.algorithm import Algorithm, Size, TellsShapes
from networks.by_layer.rates import InnerRates
from networks.by_layer.sizes import SizeOf
from networks.inject import UNREADABLE, AdapterNetwork

log = logging.getLogger("dojo")

DAMAGED = "The file is damaged, or not a LoRA in the layout of sd-scripts."


def apply_lora(path: Path, hosts: Mapping[str, nn.Module], family: str, multiplier: float = 1.0) -> AdapterNetwork:
    """Put a LoRA file onto the hosts at a strength; several may lie on one another.

    `detach()` of the network takes it off again, the last one first.

    Args:
        hosts: must hold every module that the file has weights for.

    Raises:
        UserError: the file cannot be read, or is not for these hosts.
    """
    tensors, metadata = read_for_model(path, family)
    algorithm = recognise(tensors, metadata, path)
    network = AdapterNetwork(
        algorithm,
        find_sites=lambda hosts: sites(hosts, family, conv=True, ends=True),
        size_of=fitting_sizes(algorithm, sizes_in_file(algorithm, tensors), tensors),
        inner_rates=InnerRates(),
        seed=0,
        described={},
    )
    try:
        with naming(path, family):
            network.attach(hosts)
            network.load_saved(tensors)
    except UserError:
        network.detach()
        raise
    network.set_multiplier(multiplier)
    return network.eval().requires_grad_(False)


@contextmanager
def naming(path: Path, family: str) -> Iterator[None]:
    """Within the block a LoRA file is put onto a model; what does not fit is told with the file's name."""
    try:
        yield
    except UserError as error:
        raise UserError(
            f"{path.as_posix()} is not for this model ({family}): {error} Take a LoRA that was trained on a model of this kind."
        ) from error


def recognise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> Algorithm:
    """The registered algorithm that a file's tensors are of.

    The one that the metadata names is tried first, then LoRA, then the others; of these a plugin that cannot be imported is
    passed over with a warning.

    Raises:
        UserError: none is, the one that is named cannot be imported, or the file is damaged.
    """
    order = [metadata.get("ss_network_module"), "networks.lora"]
    for name in sorted(NETWORKS.names(), key=lambda name: order.index(name) if name in order else len(order)):
        try:
            plugin = NETWORKS.get(name)
        except UserError as error:
            if name == order[0]:
                raise
            log.warning("passed over in recognising %s: %s", path.as_posix(), error)
            continue
        plugin = getattr(plugin, "applied_as", plugin)
        if hasattr(plugin, "Options"):
            trained_with = metadata if metadata.get("ss_network_module") == name else {}
            algorithm: Algorithm = plugin(_options(plugin.Options, trained_with, path))
            try:
                if sizes_in_file(algorithm, tensors):
                    return algorithm
            except UserError as error:
                raise UserError(f"{path.as_posix()}: {error}") from error
    raise UserError(
        f"{path.as_posix()} is not a LoRA in the layout of sd-scripts (`lora_unet_....lora_down.weight`); "
        f"it begins with {', '.join(sorted(tensors)[:3])}."
    )


def _options(options_type: type, metadata: Mapping[str, str], path: Path) -> Any:
    """The options that a file says it was trained with, as far as they are the algorithm's own; defaults for the others."""
    try:
        given = parse_json(metadata.get("ss_network_args", "{}"))
    except DocumentError as error:
        raise UserError(f"{path.as_posix()}: ss_network_args in its metadata is no JSON: {error}. {DAMAGED}") from error
    own = by_any_name(declarations(options_type))
    known = {name: value for name, value in given.items() if name in own} if isinstance(given, dict) else {}
    return parse_options(options_type, known, f"{path.as_posix()}: ss_network_args")


def sizes_in_file(algorithm: Algorithm, tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    """Rank and alpha of each site whose tensors are this algorithm's.

    Raises:
        UserError: tensors from which they cannot be told.
    """
    found = {}
    for key, site_tensors in tensors_by_site(tensors).items():
        try:
            size = algorithm.size_in_file(site_tensors)
        except UNREADABLE as error:
            raise UserError(f"rank and alpha of {key} cannot be told ({error}). {DAMAGED}") from error
        if size is not None and size.rank < 1:
            raise UserError(f"{key} has the rank {size.rank}. {DAMAGED}")
        if size is not None:
            found[key] = size
    return found


def fitting_sizes(algorithm: Algorithm, sizes: Mapping[str, Size], tensors: Mapping[str, Tensor]) -> SizeOf:
    """The sizes of a LoRA file, by site; asking for one raises UserError where the file's tensors do not fit that site.

    So it is told before an adapter is made: a few bytes can claim a rank of millions.
    """
    by_site = tensors_by_site(tensors)

    def size_of(site: Site) -> Size | None:
        size = sizes.get(site.key)
        expected = algorithm.shapes(site, size) if size is not None and isinstance(algorithm, TellsShapes) else {}
        for name, shape in expected.items():
            found = by_site[site.key].get(name)
            if found is not None and tuple(found.shape) != shape:
                raise UserError(f"{site.key}.{name} has the shape {list(found.shape)} instead of {list(shape)}.")
        return size

    return size_of
