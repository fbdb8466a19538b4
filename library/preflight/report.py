"""What a look at a run before it starts comes to: plain data, of which the table, the JSON and the contact sheet are views."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from library.data.checks.findings import Finding
from library.data.pictures.buckets import Size

if TYPE_CHECKING:
    from library.preflight.estimates import Estimates

FORMAT = 1
"""Of the JSON: raised when a key changes its meaning or goes; new keys may come at any time."""


@dataclass(frozen=True)
class Setup:
    """What the configuration asks for; names as its options."""

    files: list[str]
    """The configuration's files, the later the more they count."""
    pretrained_model_name_or_path: str
    """ "" where none is named, and only the data are looked at."""
    output_name: str
    network_module: str
    network_dim: int
    network_alpha: float
    optimizer_type: str
    learning_rate: float
    lr_scheduler: str
    lr_warmup_steps: float
    """Below 1 a share of the run."""
    mixed_precision: str
    strict: bool


@dataclass(frozen=True)
class SubsetReport:
    """Pictures that are treated alike."""

    where: str
    """What declares them."""
    folder: str
    """Or the metadata file."""
    is_reg: bool
    num_repeats: int
    trigger_word: str
    pictures: int
    """That can be used, with those held out."""
    held_out: int
    """Of them, for validation."""
    samples: int
    """In an epoch: pictures with their repeats, regularisation pictures as many as there are training pictures."""


@dataclass(frozen=True)
class DatasetReport:
    """Subsets that share sizes and batches."""

    resolution: Size
    enable_bucket: bool
    train_batch_size: int
    subsets: list[SubsetReport]


@dataclass(frozen=True)
class PicturesReport:
    """All pictures that can be used. Sizes are (width, height) in pixels, by area; None where there is no picture."""

    count: int
    regularisation: int
    held_out: int
    smallest: Size | None
    median: Size | None
    largest: Size | None


@dataclass(frozen=True)
class CaptionsReport:
    """The captions of the training pictures, without regularisation pictures."""

    count: int
    counted: int
    """Of them, evenly among all: what follows is told of these."""
    empty: int
    different: int
    median_words: int
    with_trigger: dict[str, tuple[int, int]]
    """Trigger word -> captions that have it, and captions that should."""
    different_tags: int
    frequent_tags: list[tuple[str, int]]
    """What stands between separators most often, and in how many captions."""


@dataclass(frozen=True)
class BucketReport:
    """Pictures of one dataset that are trained at one size."""

    dataset: int
    size: Size
    pictures: int
    samples: int
    """In an epoch."""
    batches: int
    """In an epoch, each of them one step."""
    batch_size: int
    """Samples of a full step."""
    last_batch: int
    """Samples of the last batch; as many as `batch_size` where it is full."""
    cropped: float
    """Share of the resized pictures' area that is cut away, in the mean."""


@dataclass(frozen=True)
class PlanReport:
    """What the run will do."""

    steps: int
    """Optimizer updates."""
    epochs: float
    steps_per_epoch: int
    samples_per_epoch: int
    showings: float
    """Of a training picture, in the mean over them; pictures of regularisation are not counted."""
    gradient_accumulation_steps: int
    processes: int
    """For which all this is told: how many there will be is known to the launcher alone."""
    resume: str
    """The state that the run goes on from; "" where it starts anew. Steps are counted from the very start."""


@dataclass(frozen=True)
class Report:
    """Everything that can be told of a run before it starts."""

    findings: list[Finding]
    setup: Setup | None = None
    """None, as what follows, where the configuration could not be read."""
    datasets: list[DatasetReport] = field(default_factory=list)
    pictures: PicturesReport | None = None
    captions: CaptionsReport | None = None
    buckets: list[BucketReport] = field(default_factory=list)
    plan: PlanReport | None = None
    """None where there is nothing to train."""
    estimates: Estimates | None = None
    not_estimated: str = ""
    """Why there are no estimates."""
    price_per_hour: float | None = None

    @property
    def ready(self) -> bool:
        """Whether the run can start."""
        return not any(finding.severity == "error" for finding in self.findings)

    @property
    def cost(self) -> float | None:
        """Of the whole run, where its time and a price are known."""
        seconds = self.estimates.seconds if self.estimates else None
        return None if seconds is None or self.price_per_hour is None else seconds / 3600 * self.price_per_hour


def of_mistakes(messages: Sequence[str]) -> Report:
    """The report of a configuration that could not be used."""
    return Report([Finding("setting", "error", "", message) for message in messages])


def as_json(report: Report) -> str:
    """The report for other programs, in ASCII, so that nothing in it commands a terminal; docs/checking.md tells of its keys."""
    counts = Counter(finding.severity for finding in report.findings)
    document: dict[str, Any] = {
        "format": FORMAT,
        "ready": report.ready,
        "counts": {f"{severity}s": counts[severity] for severity in ("error", "warning", "notice")},
        **asdict(report),
        "cost": report.cost,
    }
    return json.dumps(document, indent=2)
