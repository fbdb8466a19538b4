"""The report on a LoRA file as text and as a table for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from library.core.disk import amount
from library.core.documents import DocumentError, parse_json
from library.lora_files.inspect import FileReport, SiteReport, energy_by_rank, rank_for, total_norm
from library.lora_files.names.styles import DESCRIBED

IMPORTANT = {
    "title": ("modelspec.title", "ss_output_name"),
    "description": ("modelspec.description",),
    "trigger": ("modelspec.trigger_phrase",),
    "base model": ("ss_sd_model_name",),
    "made for": ("ss_base_model_version", "modelspec.architecture"),
    "network": ("ss_network_module",),
    "dim, alpha": ("ss_network_dim", "ss_network_alpha"),
    "network_args": ("ss_network_args",),
    "resolution": ("ss_resolution", "modelspec.resolution"),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "epochs": ("ss_epoch", "ss_num_epochs"),
    "images": ("ss_num_train_images",),
    "batch size": ("ss_total_batch_size", "ss_batch_size_per_device"),
    "optimizer": ("ss_optimizer",),
    "learning rate": ("ss_learning_rate",),
    "  unet": ("ss_unet_lr",),
    "  text encoder": ("ss_text_encoder_lr",),
    "schedule": ("ss_lr_scheduler",),
    "clip_skip": ("ss_clip_skip",),
    "seed": ("ss_seed",),
    "merged from": ("modelspec.merged_from",),
    "comment": ("ss_training_comment",),
    "author": ("modelspec.author",),
    "license": ("modelspec.license",),
    "date": ("modelspec.date",),
}
"""Label -> entries of the metadata: the first that says something, except for dim and alpha, of which both are shown."""

SHARES = (0.9, 0.95, 0.99)
MOST_TAGS = 12
BAR = 24
LONGEST = 200
"""Characters of one entry; thumbnails and comments may have megabytes."""


def report_text(report: FileReport, everything: bool = False) -> str:
    """The report for a terminal.

    Args:
        everything: with every entry of the metadata.
    """
    lines = [report.path.as_posix(), *_facts(report), ""]
    if everything:
        lines += [f"  {name}: {_short(value)}" for name, value in sorted(report.metadata.items())] or ["  no metadata"]
    else:
        lines += list(_important(report.metadata)) or ["  no metadata: nothing is known of how it was trained"]
    lines += ["", *_strength_table(report.sites), *_rank_table(report)]
    if report.broken:
        lines += ["", f"DAMAGED: {len(report.broken)} of {len(report.sites)} modules"]
        lines += [f"  {site.key}: {site.broken}" for site in report.broken[:10]]
    return "\n".join(lines)


def as_table(report: FileReport) -> dict[str, Any]:
    """The report for JSON."""
    shares_R = energy_by_rank(report.sites)
    return {
        "file": report.path.as_posix(),
        "bytes": report.size,
        "style": report.style,
        "family": report.family,
        "kinds": dict(Counter(site.kind for site in report.sites)),
        "numbers_by_dtype": dict(report.dtypes),
        "wrong_hashes": report.wrong_hashes,
        "norm": total_norm(report.sites),
        "rank_that_keeps": {str(share): rank_for(shares_R, share) for share in SHARES} if len(shares_R) else {},
        "blocks": [
            {"block": block, "layers": len(sites), "norm": total_norm(sites)} for block, sites in by_block(report.sites)
        ],
        "modules": [
            {
                "key": site.key,
                "block": site.block,
                "layer": site.layer,
                "kind": site.kind,
                "rank": site.strength.rank,
                "alpha": site.strength.alpha,
                "norm": site.strength.norm,
                "broken": site.broken,
            }
            for site in report.sites
        ],
        "metadata": {name: _parsed(value) for name, value in report.metadata.items()},
    }


def by_block(sites: Iterable[SiteReport]) -> list[tuple[str, list[SiteReport]]]:
    """The modules of each block, in the order in which data pass through them."""
    blocks: dict[str, list[SiteReport]] = {}
    for site in sites:
        blocks.setdefault(site.block, []).append(site)
    sides = ("te", "IN", "M0", "OU")
    return sorted(
        blocks.items(), key=lambda item: (sides.index(item[0][:2]) if item[0][:2] in sides else len(sides), item[0])
    )


def spread(values: Iterable[float | None]) -> str:
    """Values with how often they occur: `16 (264)`, `4 (12), 8 (60), ...`."""
    counts = Counter(value for value in values if value is not None).most_common()
    shown = [f"{value:g}" + (f" ({count})" if len(counts) > 1 else "") for value, count in counts[:4]]
    return ", ".join(shown + ["..."] * (len(counts) > 4)) or "-"


def _range(ranks: Iterable[int | None]) -> str:
    """Lowest and highest rank: `4-32`."""
    known = {rank for rank in ranks if rank is not None}
    return "-".join(str(rank) for rank in sorted({min(known), max(known)})) if known else "-"


def tag_lines(metadata: Mapping[str, str]) -> Iterator[str]:
    """The most frequent tags of each folder of `ss_tag_frequency`."""
    folders = _parsed(metadata.get("ss_tag_frequency", "{}"))
    for folder, counts in folders.items() if isinstance(folders, dict) else ():
        if isinstance(counts, dict):
            known = [(tag, count) for tag, count in counts.items() if isinstance(count, int)]
            top = sorted(known, key=lambda item: -item[1])[:MOST_TAGS]
            listed = ", ".join(f"{tag.strip()} {count}" for tag, count in top)
            yield f"{folder}: {listed}{', ...' if len(known) > MOST_TAGS else ''}"


def _facts(report: FileReport) -> Iterator[str]:
    dtypes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in report.dtypes.items())
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(site.kind for site in report.sites).most_common())
    yield f"  {amount(report.size)}, {dtypes}"
    yield f"  family        {report.family or f'unknown: {report.doubt}'}"
    yield f"  names         {DESCRIBED[report.style]}"
    yield f"  modules       {kinds}"
    yield f"  rank          {spread(site.strength.rank for site in report.sites)}"
    yield f"  alpha         {spread(site.strength.alpha for site in report.sites)}"
    if report.negative:
        yield f"  remark        alpha is negative in {len(report.negative)} of {len(report.sites)} modules: their change is taken away, not added"
    hashed = [name for name in ("sshs_model_hash", "modelspec.hash_sha256") if report.metadata.get(name)]
    if report.wrong_hashes:
        yield f"  hash          WRONG: {', '.join(report.wrong_hashes)} is not that of the content; the weights were changed since"
    else:
        yield f"  hash          {'right' if hashed else 'none'}"


def _important(metadata: Mapping[str, str]) -> Iterator[str]:
    for label, names in IMPORTANT.items():
        values = [metadata[name] for name in names if metadata.get(name, "None") not in ("None", "")]
        if values:
            yield f"  {label:13} {_short(', '.join(values) if label == 'dim, alpha' else values[0])}"
    for number, line in enumerate(tag_lines(metadata)):
        yield f"  {'' if number else 'tags':13} {_short(line)}"


def _strength_table(sites: Sequence[SiteReport]) -> Iterator[str]:
    if not any(site.strength.norm is not None for site in sites):
        yield "  norms depend on the base model's weights, and are not shown"
        return
    blocks = by_block(sites)
    highest = max(total_norm(members) for _, members in blocks)
    yield f"  {'block':7} {'layers':>6}  {'rank':12} {'norm':>9}"
    for block, members in blocks:
        norm = total_norm(members)
        bar = "#" * round(BAR * norm / highest) if highest > 0 else ""
        yield f"  {block:7} {len(members):6}  {_range(site.strength.rank for site in members):12} {norm:9.4f}  {bar}"
    yield f"  {'all':7} {len(sites):6}  {'':12} {total_norm(sites):9.4f}"


def _rank_table(report: FileReport) -> Iterator[str]:
    shares_R = energy_by_rank(report.sites)
    if not len(shares_R):
        return
    steps = [rank for rank in (1, 2, 4, 8, 16, 32, 64, 128, 256) if rank < len(shares_R)]
    yield ""
    yield "  kept of the change (squared norm) when every layer is cut to a rank:"
    yield "  " + "  ".join(f"rank {rank}: {shares_R[rank - 1]:.1%}" for rank in steps or [len(shares_R)])
    needed = ", ".join(f"{share:.0%} takes rank {rank_for(shares_R, share)}" for share in SHARES)
    yield f"  {needed} of {len(shares_R)}"


def _short(value: str) -> str:
    text = " ".join(value.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(value)} characters)"


def _parsed(value: str) -> Any:
    try:
        return parse_json(value) if value[:1] in ("{", "[") else value
    except DocumentError:
        return value
