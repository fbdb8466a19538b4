"""The table in a terminal: what stands in it, how wide and how long it is."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from library.data.checks.findings import Finding
from library.preflight.report import BucketReport, Report
from library.preflight.screen import Screen, columns, screen_of
from library.preflight.table import what_is_there, what_it_takes

SCREEN = Screen()


@dataclass(frozen=True)
class Guessed:
    """As `library.preflight.estimates.Estimates`."""

    peak_memory_bytes: int | None = 5 << 30
    memory_text: str = "5.0 GiB of 8.0"
    free_memory_bytes: int | None = 8 << 30
    disk_bytes: int | None = 10**9
    disk_text: str = "1.0 GB of 50"
    seconds_per_step: float | None = 0.5
    seconds: float | None = 7200.0
    how_time: str = "a guess"
    learning_rates: list[tuple[int, float]] = field(default_factory=lambda: [(0, 0.0), (50, 1e-4), (100, 5e-5)])
    schedule_text: str = "cosine"
    problems: list[str] = field(default_factory=list)


@pytest.fixture
def report(tmp_path: Path, picture, checked) -> Report:
    for number in range(12):
        picture(tmp_path / f"pictures/{number}.png", (64, 64), number, f"anna, pose {number}")
    return checked("--train_batch_size", 5, "--max_train_steps", 30, "--trigger_word", "anna").report


def lines_of(report: Report, screen: Screen = SCREEN) -> list[str]:
    return f"{what_is_there(report, screen)}\n{what_it_takes(report, screen)}".splitlines()


def test_every_section_and_the_plan(report: Report) -> None:
    lines = lines_of(replace(report, findings=[]))
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert headings == [
        "Pictures", "Captions", "Buckets", "Plan", "Findings: none", "What it takes", "12 pictures, 12 samples an epoch: ready.",
    ]  # fmt: skip
    text = " ".join(" ".join(lines).split())
    assert "12 pictures x1, 12 an epoch" in text and "'anna' in 12 of 12" in text
    assert "30: 3 steps an epoch, 10 epochs; each picture is shown 10 times" in text
    (bucket,) = [line for line in lines if line.startswith("  64x64")]
    assert "█" * 19 in bucket and bucket.split()[2:] == ["12", "12", "3", "2", "of", "5", "0%"]


@pytest.mark.parametrize("width", [64, 80, 120])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int) -> None:
    long = "a long sentence about it " * 9 + "x" * 150
    findings = [Finding("setting", "warning", "", long, long), Finding("blurred", "notice", f"/{'y' * 200}.png", long)]
    findings += [Finding("copy", "notice", f"/{number}{'写' * 90}.png", "is one.") for number in range(9)]
    wide = replace(report, findings=findings, estimates=Guessed(problems=[long]))  # type: ignore[arg-type]
    assert max(columns(line) for line in lines_of(wide, Screen(width))) <= width


def test_errors_stand_first_with_what_to_do(report: Report) -> None:
    findings = [
        Finding("blurred", "notice", "/a.png", "looks blurred.", "Leave it out."),
        Finding("no caption", "warning", "/b.png", "has no caption.", "Write one."),
        Finding("mask", "error", "/c.png", "has no mask.", "Paint one."),
    ]
    lines = lines_of(replace(report, findings=findings))
    kinds = [line.split()[0] for line in lines if re.match("  (error|warning|notice) ", line)]
    assert kinds == ["error", "warning", "notice"] and "Findings: 1 error, 1 warning, 1 notice" in lines
    assert [line.strip() for line in lines if "->" in line] == ["-> Paint one.", "-> Write one.", "-> Leave it out."]
    assert lines[-1] == "Not yet: 1 error must be mended first."


@pytest.mark.parametrize("message", ["looks blurred.", "is {0}x{0}."])
def test_thousands_of_problems_stay_readable(report: Report, message: str) -> None:
    findings = [Finding("blurred", "notice", f"/p/{n}.png", message.format(n), "Look.") for n in range(3000)]
    lines = lines_of(replace(report, findings=findings))
    assert len(lines) < 45
    assert any("blurred: 3000 files" in line for line in lines) and any("and 2995 more" in line for line in lines)
    assert sum("-> Look." in line for line in lines) == 1


def test_many_kinds_settings_subsets_and_buckets_stay_readable(report: Report) -> None:
    findings = [Finding("setting", "error", "", f"mistake {number}.") for number in range(300)]
    bucket = BucketReport(0, (64, 64), 1, 1, 1, 5, 1, 0.0)
    buckets = [replace(bucket, size=(64, 64 + number), samples=number) for number in range(1, 500)]
    dataset = replace(report.datasets[0], subsets=report.datasets[0].subsets * 400)
    lines = lines_of(replace(report, findings=findings, buckets=buckets, datasets=[dataset]))
    assert len(lines) < 160
    assert [line.strip().split(" (")[0] for line in lines if line.strip().startswith("and ")] == [
        "and 388 more subsets", "and 483 more buckets", "and 260 more kinds",
    ]  # fmt: skip
    assert any("  64x563" in line for line in lines), "the fullest buckets are those that are shown"


def test_names_do_not_command_the_terminal(report: Report) -> None:
    evil = "/p/\x1b[2J\u202ecod.exe\n\r.png"
    findings = [Finding("copy", "notice", evil, f"is a copy of {evil}.", evil), Finding("x", "notice", evil, "m")]
    text = "\n".join(lines_of(replace(report, findings=findings)))
    assert "\\x1b[2J\\u202ecod.exe" in text
    assert not set("\x1b\u202e\r") & set(text)


def test_estimates_and_cost(report: Report) -> None:
    known = replace(report, estimates=Guessed(), price_per_hour=0.8)  # type: ignore[arg-type]
    text = what_it_takes(known, Screen())
    assert "5.0 GiB of 8.0" in text and "1.0 GB of 50" in text and "about 2 h 0 min, 0.5 s a step (a guess)" in text
    assert "about 1.60 at 0.8 an hour" in text
    assert "▁█▅" in text and "0.0001 at the most" in text


def test_what_is_not_known_has_its_place_and_reason(report: Report) -> None:
    unknown = Guessed(None, "", None, None, "", None, None, "", [], "", ["memory: the network is somebody's own."])
    text = what_it_takes(replace(report, estimates=unknown, price_per_hour=1.0), Screen())  # type: ignore[arg-type]
    for name in ("memory", "disk", "time"):
        assert re.search(rf"^  {name} +not known$", text, re.MULTILINE)
    assert "not known, since the time is not" in text and "the network is somebody's own." in text
    assert "not known: it was not asked for" in what_it_takes(
        replace(report, not_estimated="it was not asked for"), Screen()
    )


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_colours_and_signs_are_the_terminals(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert screen_of(Terminal(io.BytesIO(), "utf-8")).colour
    assert not screen_of(io.TextIOWrapper(io.BytesIO(), "utf-8")).colour, "a file is no terminal"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not screen_of(Terminal(io.BytesIO(), "utf-8")).colour
    plain = "\n".join(lines_of(report))
    coloured = "\n".join(lines_of(report, Screen(colour=True)))
    assert "\x1b[1mPictures\x1b[0m" in coloured and re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    poor = screen_of(io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert not poor.blocks
    shown = "\n".join(lines_of(replace(report, estimates=Guessed()), replace(poor, width=80)))  # type: ignore[arg-type]
    assert shown.isascii() and "#" * 19 in shown and "_^-" in shown


def test_bars_and_curves() -> None:
    screen = Screen()
    assert [len(screen.bar(share, 10)) for share in (0.0001, 0.34, 1.0)] == [10, 10, 10]
    assert (
        screen.bar(0.0001, 10).strip() == "▏"
        and screen.bar(0.34, 10).strip() == "███▍"
        and screen.bar(1, 10) == "█" * 10
    )
    ramp = screen.curve([step / 99 for step in range(100)], 8)
    assert ramp == "▁▂▃▄▅▆▇█" and screen.curve([1.0, 1.0], 8) == "██" and screen.curve([0.0], 8) == ""


def test_one_is_one(report: Report) -> None:
    assert report.plan is not None
    plan = replace(report.plan, steps=1, epochs=1.0, steps_per_epoch=1, samples_per_epoch=1, showings=1.0)
    text = " ".join(" ".join(lines_of(replace(report, plan=plan))).split())
    assert "1: 1 step an epoch, 1 epoch; each picture is shown once" in text and "1 sample an epoch" in text
    several = " ".join(" ".join(lines_of(report)).split())
    assert "10 epochs; each picture is shown 10 times" in several and "12 samples an epoch" in several


def test_the_numbers_of_all_folders_stand_below_one_another(report: Report) -> None:
    (dataset,) = report.datasets
    (one,) = dataset.subsets
    rows = [
        replace(one, folder="/pictures/1_hero dress", held_out=2, samples=10),
        replace(one, folder="/reg/1_man", is_reg=True, samples=137),
        replace(one, folder="/" + "long/" * 30),
    ]
    lines = lines_of(replace(report, datasets=[replace(dataset, subsets=rows)]))
    shown = [line for line in lines if "pictures" in line and "an epoch" in line and " x1" in line]
    assert len({line.index("12 pictures") for line in shown}) == 1 and len(shown) == 3
    assert shown[0].endswith("12 pictures (2 held out) x1, 10 an epoch")


def test_folders_and_settings_are_not_called_files(report: Report) -> None:
    findings = [
        Finding("setting", "notice", f"data.toml: subsets[{n}]", f"no effect {n}.", "Leave it out.") for n in range(6)
    ]
    findings += [Finding("class imbalance", "notice", f"f{n}", f"is shown {n} times.", "More.") for n in range(8)]
    findings += [Finding("enlarged", "notice", f"{n}.png", f"is enlarged {n} times.") for n in range(7)]
    lines = lines_of(replace(report, findings=findings))
    for title in ("setting: 6 settings", "class imbalance: 8 folders", "enlarged: 7 files"):
        assert any(line.endswith(title) for line in lines), title
    more = [line.strip().split(" (")[0] for line in lines if line.strip().startswith("and ")]
    assert more == ["and 1 more setting", "and 3 more folders", "and 2 more files"]
