"""How much of a LoRA's change a smaller one keeps, by block."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from library.lora_files.names.places import block_name

ALL = "all"


@dataclass
class Share:
    """Of the layers of one block."""

    energy: float = 0.0
    """Squared Frobenius norm of the whole change."""
    kept: float = 0.0
    """Of what is kept."""
    former: list[int] = field(default_factory=list)
    """Ranks before; none where there were no ranks."""
    ranks: list[int] = field(default_factory=list)

    @property
    def norm_share(self) -> float:
        """Frobenius norm of what is kept, divided by that of the whole; sd-scripts' "fro retained"."""
        return math.sqrt(min(1.0, self.kept / self.energy)) if self.energy > 0 else 1.0


@dataclass
class KeptByBlock:
    """Filled while a LoRA is made."""

    family: str
    by_block: dict[str, Share] = field(default_factory=dict)

    def add(self, key: str, energy: float, kept: float, rank: int, former: int | None = None) -> None:
        """One layer.

        Args:
            energy, kept: squared Frobenius norms of the whole change and of what is kept.
        """
        for name in (block_name(key, self.family), ALL):
            share = self.by_block.setdefault(name, Share())
            share.energy += energy
            share.kept += kept
            share.ranks.append(rank)
            share.former += [] if former is None else [former]

    @property
    def total(self) -> Share:
        """Of all layers."""
        return self.by_block[ALL]

    def table(self) -> str:
        """A line a block, text encoders first, and one for all."""
        names = sorted(self.by_block, key=_order)
        width = max(map(len, names))
        lines = [f"{'block':<{width}}  layers  {'ranks':<14}  norm kept"]
        for name in names:
            share = self.by_block[name]
            ranks = f"{spread(share.former)} -> {spread(share.ranks)}" if share.former else spread(share.ranks)
            lines.append(f"{name:<{width}}  {len(share.ranks):>6}  {ranks:<14}  {share.norm_share:>9.2%}")
        return "\n".join(lines)


def spread(ranks: list[int]) -> str:
    """8, or 4-16."""
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}-{high}"


def _order(name: str) -> tuple[int, str]:
    sides = ("te", "IN", "M", "OUT")
    found = next((index for index, side in enumerate(sides) if name.startswith(side)), len(sides))
    return (len(sides) + 1 if name == ALL else found), name
