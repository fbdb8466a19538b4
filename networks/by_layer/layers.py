"""Which layers the tables of `network_layers` mean, and what they change there (docs/layers.md explains the words)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from library.config.schema.layers import LayerRule
from library.core.errors import did_you_mean, raise_all
from library.lora_files.names.keys import Site
from library.lora_files.names.layouts import BlockCounts

BLOCKS = re.compile(r"(IN|M|OUT)(\d\d)(?:-(IN|M|OUT)(\d\d))?")
IN_ORDER = ("IN", "M", "OUT")
ONLY_IN_SDXL = "up_blocks.0.attentions"
"""Where B-LoRA acts; UNets of Stable Diffusion 1.5 and 2.x have no attention there."""


@dataclass(frozen=True)
class LayerRate:
    """The learning rate of some layers, in place of their host's or as a part of it."""

    name: str
    """Shown in logs."""
    lr: float | None = None
    scale: float = 1.0
    """Of the host's learning rate, where `lr` is not set."""

    @property
    def zero(self) -> bool:
        """Whether nothing is to be learned."""
        return 0 in (self.lr, self.scale)

    def of(self, host_lr: float) -> float:
        """The learning rate where the host's is `host_lr`; a host that is not trained stays so."""
        return host_lr * self.scale if self.lr is None or not host_lr else self.lr


@dataclass(frozen=True)
class Change:
    """What is otherwise for one layer than for the network as a whole; None: nothing."""

    dim: int | None = None
    alpha: float | None = None
    rate: LayerRate | None = None

    def under(self, rule: LayerRule) -> Change:
        """With what the rule says laid over it."""
        if rule.lr is not None or rule.lr_scale is not None:
            scale = 1.0 if rule.lr_scale is None else rule.lr_scale
            rate: LayerRate | None = LayerRate(", ".join(rule.match), rule.lr, scale)
        else:
            rate = self.rate
        dim = self.dim if rule.dim is None else rule.dim
        return Change(dim, self.alpha if rule.alpha is None else rule.alpha, rate)


@dataclass(frozen=True)
class Names:
    """What a layer is called."""

    block: str
    """"OUT03", or '' where it is in none."""
    texts: tuple[str, ...]
    """Its dotted names, beginning with the host, and its key in LoRA files."""


Fits = Callable[[Names], bool]


def layer_changes(
    rules: Sequence[LayerRule],
    before: Mapping[str, Change],
    everything: Iterable[Site],
    usual: Collection[str],
    blocks: BlockCounts,
) -> dict[str, Change]:
    """What holds for single layers, by their keys.

    Args:
        before: changes that the rules are laid over.
        everything: all that a network may act on, convolutional blocks included.
        usual: keys of the layers that this one acts on where no rule gives a dim. A text that fits some of them means those
            alone, so that "OUT03" does not bring in resnets.

    Raises:
        UserErrors: texts that no layer fits, and rules for layers that the network does not act on.
    """
    names = {site.key: names_of(site, blocks) for site in everything}
    changes = dict(before)
    mistakes: list[str] = []
    reached: list[list[str]] = []
    for number, rule in enumerate(rules):
        found = [fitting(text, names) for text in rule.match]
        mistakes += [
            f"network_layers[{number}]: {_nothing_fits(text, names)}"
            for text, keys in zip(rule.match, found, strict=True)
            if not keys
        ]
        meant = [[key for key in keys if key in usual] or keys for keys in found]
        reached.append(list(dict.fromkeys(key for keys in meant for key in keys)))
        changes |= {key: changes.get(key, Change()).under(rule) for key in reached[-1]}
    raise_all(mistakes or _without_adapters(reached, changes, usual))
    return changes


def names_of(site: Site, blocks: BlockCounts) -> Names:
    """What a layer is called."""
    dotted = dict.fromkeys((f"{site.host}.{site.path}", f"{site.host}.{site.name}", site.key))
    return Names("" if site.block is None else blocks.label(site.block), tuple(dotted))


def fitting(text: str, names: Mapping[str, Names]) -> list[str]:
    """The keys of the layers that fit every word of a text."""
    words = [_word(word) for word in text.split()]
    return [key for key, called in names.items() if all(fits(called) for fits in words)]


def _word(word: str) -> Fits:
    """Whether a layer fits a word: a block, a range of blocks, or whole parts of its name, where * stands for any text."""
    if found := BLOCKS.fullmatch(word):
        first, last = _place(found[1], found[2]), _place(found[3] or found[1], found[4] or found[2])
        return lambda called: called.block != "" and first <= _place_of(called.block) <= last
    text = ".*".join(map(re.escape, word.split("*")))
    pattern = re.compile(rf"(?:.*\.)?{text}(?:\..*)?")
    return lambda called: any(pattern.fullmatch(each) for each in called.texts)


def _place(side: str, number: str) -> tuple[int, int]:
    return IN_ORDER.index(side), int(number)


def _place_of(block: str) -> tuple[int, int]:
    return _place(block[:-2], block[-2:])


def _nothing_fits(text: str, names: Mapping[str, Names]) -> str:
    hosts = ", ".join(dict.fromkeys(called.texts[0].partition(".")[0] for called in names.values()))
    trained = f"of the parts that are trained ({hosts})"
    for word in text.split():
        if not fitting(word, names):
            meant = did_you_mean(word, _known(word, names))
            if ONLY_IN_SDXL in word and not fitting(ONLY_IN_SDXL, names):
                meant = " Only the UNet of SDXL has attention there, so that B-LoRA is for SDXL alone."
            return f"no layer {trained} fits '{word}'.{meant} docs/layers.md has the names."
    return f"no layer {trained} fits all of '{text}'. Texts of which one is enough stand apart: [{_apart(text)}]."


def _known(word: str, names: Mapping[str, Names]) -> set[str]:
    """Blocks, and names of as many parts as the word has."""
    count = word.count(".") + 1
    parts = [text.split(".") for called in names.values() for text in called.texts]
    runs = {".".join(each[at : at + count]) for each in parts for at in range(len(each) - count + 1)}
    return runs | {called.block for called in names.values() if called.block}


def _apart(text: str) -> str:
    return ", ".join(f'"{word}"' for word in text.split())


def _without_adapters(
    reached: Sequence[Sequence[str]], changes: Mapping[str, Change], usual: Collection[str]
) -> list[str]:
    """Rules all of whose layers get no adapter, since they are convolutional and nothing gives them a rank."""
    return [
        f"network_layers[{number}]: the network does not act on these layers, such as {keys[0]}: give them a dim, or set conv_dim."
        for number, keys in enumerate(reached)
        if all(key not in usual and changes[key].dim is None for key in keys)
    ]
