"""The report as a table for a terminal: what is there, what will be done with it, what was found, and whether the run can start."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from library.core.durations import duration
from library.core.wording import how_many
from library.data.checks.findings import SEVERITIES, Group, grouped
from library.data.pictures.buckets import Size
from library.preflight.report import (
    BucketReport,
    CaptionsReport,
    DatasetReport,
    PlanReport,
    Report,
    Setup,
    SubsetReport,
)
from library.preflight.screen import Screen, columns, padded

SHOWN_SUBSETS = 12
SHOWN_BUCKETS = 16
SHOWN_GROUPS = 40
SHOWN_FILES = 5
"""Of a group of findings."""
SHOWN_TAGS = 6
NAME = 17
"""Columns of a row's name, its indent with it."""
BAR = 20
BUCKET_COLUMNS = 61
"""Of a bucket's row without its bar."""
CURVE = 40
IN_JSON = "--json lists them all"


def what_is_there(report: Report, screen: Screen) -> str:
    """All sections that need no model: pictures, captions, buckets, plan, findings."""
    sections = [
        _section("Pictures", _pictures(report, screen), screen),
        _section("Captions", _captions(report.captions, screen) if report.captions else [], screen),
        _section("Buckets", _buckets(report, screen), screen),
        _section("Plan", _plan(report.plan, report.setup, screen) if report.plan and report.setup else [], screen),
        _section(f"Findings: {_counted(report)}", _findings(report, screen), screen, always=True),
    ]
    return "\n\n".join(filter(None, sections))


def what_it_takes(report: Report, screen: Screen) -> str:
    """Memory, disk, time and cost, and the verdict."""
    return "\n\n".join([_section("What it takes", _estimates(report, screen), screen), _verdict(report, screen)])


def _section(title: str, lines: list[str], screen: Screen, always: bool = False) -> str:
    return "\n".join([screen.painted(title, "bold"), *lines]) if lines or always else ""


def _row(name: str, text: str, screen: Screen) -> list[str]:
    """A name and what is to be said of it, over as many lines as that needs."""
    first, *rest = screen.paragraph(text, NAME) or [""]
    return [f"{padded(f'  {name}', NAME)}{first.lstrip()}", *rest]


def _pictures(report: Report, screen: Screen) -> list[str]:
    found = report.pictures
    if found is None:
        return []
    lines = [line for dataset in report.datasets for line in _subsets(dataset, screen)]
    if found.smallest and found.median and found.largest:
        sizes = f"{_size(found.smallest)} to {_size(found.largest)}, half of them above {_size(found.median)}"
        lines += _row("sizes", sizes if found.smallest != found.largest else f"all {_size(found.median)}", screen)
    if found.held_out:
        lines += _row("held out", f"{how_many(found.held_out, 'picture')} for validation", screen)
    return lines


def _subsets(dataset: DatasetReport, screen: Screen) -> list[str]:
    how = "buckets of about" if dataset.enable_bucket else "all cut to"
    lines = [f"  at {_size(dataset.resolution)} ({how} that size), {dataset.train_batch_size} a batch"]
    shown = dataset.subsets[:SHOWN_SUBSETS]
    facts = [_facts(subset) for subset in shown]
    room = max(20, screen.width - max(map(len, facts), default=0) - 6)
    names = [screen.cut(subset.folder, room) for subset in shown]
    width = max(map(columns, names), default=0)
    lines += [f"    {padded(name, width)}  {told}" for name, told in zip(names, facts)]
    return lines + _more(len(dataset.subsets) - SHOWN_SUBSETS, "subset", 4)


def _facts(subset: SubsetReport) -> str:
    held = f" ({subset.held_out} held out)" if subset.held_out else ""
    told = f"{how_many(subset.pictures, 'picture')}{held} x{subset.num_repeats}, {subset.samples} an epoch"
    return f"{told} (regularisation)" if subset.is_reg else told


def _captions(found: CaptionsReport, screen: Screen) -> list[str]:
    if not found.count:
        return []
    told = f"{found.counted - found.empty} of {found.counted} pictures have one"
    if found.counted < found.count:
        told += f" ({found.count} were not counted, but every {round(found.count / found.counted)}th of them)"
    told += f"; {found.different} different, {how_many(found.median_words, 'word')} in the median"
    lines = _row("captions", told, screen)
    for trigger, (having, of) in found.with_trigger.items():
        lines += _row("trigger", f"'{trigger}' in {having} of {of}", screen)
    if found.frequent_tags:
        tags = [f"{tag} {count}" for tag, count in found.frequent_tags[:SHOWN_TAGS]]
        told = f"{found.different_tags} different; most often " + ", ".join(screen.cut(tag, 40) for tag in tags)
        lines += _row("tags", told, screen)
    return lines


def _buckets(report: Report, screen: Screen) -> list[str]:
    """Each bucket with a bar as long as its share of the fullest."""
    found = report.buckets
    if not found:
        return []
    fullest = max(bucket.samples for bucket in found)
    bar = max(0, min(BAR, screen.width - BUCKET_COLUMNS))
    several = len(report.datasets) > 1
    lines = [f"  {'size':11}{'':{bar}} {'pictures':>9}{'an epoch':>10}{'steps':>7}  {'last step':11}{'cut away':>8}"]
    for bucket in sorted(found, key=lambda bucket: (bucket.dataset, -bucket.samples))[:SHOWN_BUCKETS]:
        lines.append(_bucket(bucket, bucket.samples / fullest, bar, screen))
    lines += _more(len(found) - SHOWN_BUCKETS, "bucket", 2)
    return [*lines, *(["  (those of each dataset stand together)"] if several else [])]


def _bucket(bucket: BucketReport, share: float, bar: int, screen: Screen) -> str:
    last = f"{bucket.last_batch} of {bucket.batch_size}"
    short = bucket.last_batch * 2 <= bucket.batch_size
    return (
        f"  {_size(bucket.size):11}{screen.painted(screen.bar(share, bar), 'notice')} {bucket.pictures:>9}{bucket.samples:>10}"
        f"{bucket.batches:>7}  {screen.painted(f'{last:11}', 'warning') if short else f'{last:11}'}{bucket.cropped:>8.0%}"
    )


def _plan(plan: PlanReport, setup: Setup, screen: Screen) -> list[str]:
    epochs, showings = f"{plan.epochs:.4g}", f"{plan.showings:.3g}"
    per_step = f"{how_many(plan.steps_per_epoch, 'step')} an epoch, {epochs} {'epoch' if epochs == '1' else 'epochs'}"
    shown = "once" if showings == "1" else f"{showings} times"
    lines = _row("steps", f"{plan.steps}: {per_step}; each picture is shown {shown}", screen)
    told = f"{how_many(plan.samples_per_epoch, 'sample')} an epoch"
    if plan.gradient_accumulation_steps > 1:
        told += f", {plan.gradient_accumulation_steps} batches a step (gradient_accumulation_steps)"
    told += f"; for {how_many(plan.processes, 'process', 'processes')}: with n of them there are about n times fewer steps an epoch"
    lines += _row("epoch", told, screen)
    if plan.resume:
        lines += _row("resume", f"goes on from {plan.resume}; steps are counted from the run's very start", screen)
    lines += _row("network", f"{setup.network_module}, dim {setup.network_dim}, alpha {setup.network_alpha:g}", screen)
    warmup = f", lr_warmup_steps {setup.lr_warmup_steps:g}" if setup.lr_warmup_steps else ""
    rate = f"{setup.optimizer_type} at {setup.learning_rate:g}, {setup.lr_scheduler}{warmup}"
    return lines + _row("learning rate", rate, screen)


def _counted(report: Report) -> str:
    counts = Counter(finding.severity for finding in report.findings)
    told = [how_many(counts[severity], severity) for severity in SEVERITIES if counts[severity]]
    return ", ".join(told) or "none"


def _findings(report: Report, screen: Screen) -> list[str]:
    groups = grouped(report.findings)
    folders = {subset.folder for dataset in report.datasets for subset in dataset.subsets}
    lines = [line for group in groups[:SHOWN_GROUPS] for line in _group(group, folders, screen)]
    return lines + _more(len(groups) - SHOWN_GROUPS, "kind", 2)


def _group(group: Group, folders: set[str], screen: Screen) -> Iterator[str]:
    """What, how often, what to do, and the first files."""
    first, count = group.first, len(group.findings)
    of = f": {how_many(count, group.counted_as)}" if count > 1 else ""
    yield f"  {screen.painted(f'{first.severity:8}', first.severity)} {screen.painted(first.kind, 'bold')}{of}"
    names = [_name(each.path, folders) for each in group.findings[:SHOWN_FILES]]
    if group.message and count > 1 and first.path:
        rest = [f"and {count - SHOWN_FILES} more"] if count > SHOWN_FILES else []
        yield from screen.listed([*names, *rest], 11)
        yield from screen.paragraph(_without_folders(group.message, folders), 11)
    else:
        for each in group.findings[:SHOWN_FILES]:
            name = f"{_name(each.path, folders)}: " if each.path else ""
            yield from screen.paragraph(f"{name}{_without_folders(each.message, folders)}", 11)
        yield from _more(count - SHOWN_FILES, group.counted_as, 11)
    if first.advice:
        yield from screen.paragraph(f"-> {first.advice}", 11)


def _name(path: str, folders: set[str]) -> str:
    """The file's name, with its folder's where there are several; folders are named in full."""
    if path in folders or os.path.dirname(path) not in folders:  # noqa: PTH120  # paths as text, whatever is in them
        return path
    return _without_folders(path, folders)


def _without_folders(text: str, folders: set[str]) -> str:
    """The text with the folders of the pictures cut to their last part, or left out where all pictures are in one."""
    for folder in sorted(folders, key=len, reverse=True):
        for separator in {"/", os.sep}:
            last = f"{os.path.basename(folder)}{separator}" if len(folders) > 1 else ""  # noqa: PTH119
            text = text.replace(f"{folder}{separator}", last)
    return text


def _estimates(report: Report, screen: Screen) -> list[str]:
    """Each with its place, whether it is known or not."""
    found = report.estimates
    if found is None:
        return _row("all of it", f"not known: {report.not_estimated}", screen)
    lines = []
    if found.learning_rates:
        rates = [rate for _, rate in found.learning_rates]
        curve = screen.curve(rates, min(CURVE, screen.width - NAME - 25))
        lines.append(f"{padded('  learning rate', NAME)}{screen.painted(curve, 'notice')} {max(rates):.3g} at the most")
    lines += _row("schedule", found.schedule_text, screen) if found.schedule_text else []
    lines += _row("memory", found.memory_text or "not known", screen)
    lines += _row("disk", found.disk_text or "not known", screen)
    if found.seconds is None:
        lines += _row("time", "not known", screen)
    else:
        each = "" if found.seconds_per_step is None else f", {duration(found.seconds_per_step)} a step"
        how = f" ({found.how_time})" if found.how_time else ""
        lines += _row("time", f"about {duration(found.seconds)}{each}{how}", screen)
    lines += _row("cost", _cost(report), screen)
    for problem in found.problems:
        lines += _row("not known", problem, screen)
    return lines


def _cost(report: Report) -> str:
    if report.price_per_hour is None:
        return "not known: --price_per_hour says what the machine costs"
    if report.cost is None:
        return "not known, since the time is not"
    return f"about {report.cost:.2f} at {report.price_per_hour:g} an hour"


def _verdict(report: Report, screen: Screen) -> str:
    counts = Counter(finding.severity for finding in report.findings)
    if not report.ready:
        return screen.painted(f"Not yet: {how_many(counts['error'], 'error')} must be mended first.", "error")
    told = ""
    if report.pictures and report.plan:
        told = f"{how_many(report.pictures.count, 'picture')}, {how_many(report.plan.samples_per_epoch, 'sample')} an epoch: "
    looked = f", with {how_many(counts['warning'], 'warning')}" if counts["warning"] else ""
    return screen.painted(f"{told}ready{looked}.", "warning" if looked else "good")


def _more(count: int, what: str, indent: int) -> list[str]:
    return [f"{' ' * indent}and {how_many(count, f'more {what}')} ({IN_JSON})"] if count > 0 else []


def _size(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
