"""Look through a run's configuration, pictures and captions before it starts: what is wrong, what to do, and what the run will take.

    dojo check my.toml
    dojo check my.toml --sheet problems.png             every picture with its problems written on it
    dojo check my.toml --json report.json               the same for other programs; --json - prints it
    dojo check my.toml --price_per_hour 0.79            with what the run will cost
    dojo check --train_data_dir pictures/anna --fast    the data alone, without a model

Takes the same options as train_network.py too (`train_network.py --help` lists them); `--strict true` makes warnings errors.
What the data and the plan come to is told at once. Then memory, disk and time are estimated, for which the model's description is
read but no weights are; --fast leaves that out.

Exit status 0: ready; 2: something must be mended first.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from library.cli.arguments import DEMO_MODEL, command_parser, of_a_run, positive, price

if TYPE_CHECKING:
    from library.config.dataset import Dataset
    from library.config.load import LoadedConfig
    from library.data.index.sources import Survey
    from library.preflight.report import Report

NO_MODEL = "no base model is named; set pretrained_model_name_or_path."
ASKED_NOT_TO = "--fast leaves it out."
NOT_READY = "what was found must be mended first."
STDOUT = "-"


def main(argv: Sequence[str]) -> int:
    """Look, tell, estimate; returns the exit status."""
    from library.core.errors import Exit, UserError
    from library.preflight.report import of_mistakes

    arguments, options = of_a_run(_parser(), argv)
    try:
        report = _checked(arguments, options)
    except UserError as error:
        if arguments.json:
            _write(of_mistakes(error.messages), arguments.json)
        raise
    if arguments.json:
        _write(report, arguments.json)
    return Exit.COMPLETE if report.ready else Exit.MISTAKE


def with_a_model(options: Sequence[str]) -> tuple[list[str], bool]:
    """The options, with the embedded model where data are named and no model; and whether the user named one, or no data either."""
    from library.config.command_line import read_command_line
    from library.config.findings import Findings
    from library.config.presets import NAMES_WHAT_IS_TRAINED, overlay, read_layers
    from library.config.settings import choose_settings

    findings = Findings()  # of mistakes, which are told when the configuration is read in earnest
    command = read_command_line(options, findings)
    files = [*([command.config] if command.config else []), *command.extends]
    layers = [layer.settings for name in files for layer in read_layers(name, Path(), "", findings)]
    chosen = overlay([*layers, choose_settings(command.settings, findings)])
    model, *data = (key in chosen and bool(chosen[key].value) for key in NAMES_WHAT_IS_TRAINED)
    if any(data) and not model:
        return [*options, "--pretrained_model_name_or_path", str(DEMO_MODEL)], False
    return list(options), True


def _checked(arguments: argparse.Namespace, options: Sequence[str]) -> Report:
    """The report, told as far as it is known while the rest is still estimated."""
    from library.config.dataset import resolve_datasets
    from library.config.load import load_config
    from library.data.cache.keys import manifest_file
    from library.data.checks.preflight import preflight
    from library.data.index.sources import without_mask_pictures
    from library.models.caption_length import caption_counter
    from library.preflight.gather import gather
    from library.preflight.screen import screen_of
    from library.preflight.table import what_is_there, what_it_takes

    options, has_model = with_a_model(options)
    loaded = load_config(options)
    datasets, notices = resolve_datasets(loaded.config)
    if not loaded.config.loss.masked_loss:
        datasets = [without_mask_pictures(dataset) for dataset in datasets]
    survey = preflight(
        datasets,
        seed=loaded.config.training.seed or 0,
        strict=loaded.config.data.strict,
        max_token_length=loaded.config.model.max_token_length or 75,
        count_tokens=caption_counter(loaded.config.model.weighted_captions),
        manifest=manifest_file(loaded.config.data.cache_dir),
        progress=loaded.config.logging.progress,
    )
    report = gather(loaded, datasets, notices, survey)
    report = replace(report, price_per_hour=arguments.price_per_hour)
    if not has_model and report.setup:
        report = replace(report, setup=replace(report.setup, pretrained_model_name_or_path=""))
    shown, screen = arguments.json != STDOUT, screen_of(sys.stdout)
    if shown:
        print(what_is_there(report, screen), flush=True)
    if arguments.sheet is not None:
        files = _sheet(arguments, options, loaded, datasets, survey, report)
        if shown:
            print(f"\nContact sheet: {', '.join(map(str, files)) or 'there is no picture to show'}", flush=True)
    reason = ASKED_NOT_TO if arguments.fast else NO_MODEL if not has_model else "" if report.ready else NOT_READY
    if reason:
        report = replace(report, not_estimated=reason)
    else:
        if shown:
            print("\nestimating memory and time ...", flush=True)
        report = _estimated(report, loaded, datasets, survey)
    if shown:
        print(f"\n{what_it_takes(report, screen)}", flush=True)
    return report


def _estimated(report: Report, loaded: LoadedConfig, datasets: Sequence[Dataset], survey: Survey) -> Report:
    """With what the run takes; what cannot be built is what the run would end with."""
    from library.core.errors import UserError
    from library.core.runtime import uncollected
    from library.data.checks.findings import Finding

    with uncollected():
        from library.preflight.estimates import estimate_run
    try:
        found = estimate_run(loaded, datasets, survey.pictures)
    except UserError as error:
        told = [Finding("setting", "error", "", message) for message in error.messages]
        return replace(report, findings=[*report.findings, *told], not_estimated=NOT_READY)
    scarce = found.peak_memory_bytes is not None and found.peak_memory_bytes > (found.free_memory_bytes or math.inf)
    told = [Finding("memory", "warning", "", f"may not suffice: {found.memory_text}")] if scarce else []
    return replace(report, findings=[*report.findings, *told], estimates=found)


def _sheet(
    arguments: argparse.Namespace,
    options: Sequence[str],
    loaded: LoadedConfig,
    datasets: Sequence[Dataset],
    survey: Survey,
    report: Report,
) -> list[Path]:
    from library.preflight.sheet import write_sheet

    title = f"dojo check {_named(options) or loaded.config.data.train_data_dir or ''}"
    return write_sheet(arguments.sheet, title, survey, datasets, report.findings, arguments.sheet_pictures)


def _named(options: Sequence[str]) -> str:
    """The configuration file that the user gave, or the presets where there is none."""
    from library.config.command_line import read_command_line
    from library.config.findings import Findings

    command = read_command_line(options, Findings())  # mistakes in it were told when it was read in earnest
    return Path(command.config).name if command.config else " ".join(f"--extends {name}" for name in command.extends)


def _write(report: Report, where: str) -> None:
    """Into a file, or to standard output."""
    from library.core.files import write_atomically
    from library.preflight.report import as_json

    text = as_json(report)
    if where == STDOUT:
        print(text, flush=True)
    else:
        write_atomically(Path(where), lambda path: path.write_text(f"{text}\n", encoding="utf-8"))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("check", __doc__)
    parser.allow_abbrev = False
    parser.usage = "dojo check [CONFIG] [--sheet FILE.png] [--json FILE] [options of train_network.py]"
    parser.add_argument("--fast", action="store_true", help="without memory, disk and time, which take some seconds")
    parser.add_argument(
        "--json", type=_json, metavar="FILE", help="write the report as JSON; - prints it, and nothing else"
    )
    parser.add_argument(
        "--sheet", type=_png, metavar="FILE.png", help="write a contact sheet, further pages beside it as FILE-2.png"
    )
    parser.add_argument(
        "--sheet_pictures", type=positive, default=200, metavar="N", help="pictures on it at the most; 200 unless set"
    )
    parser.add_argument("--price_per_hour", type=price, metavar="PRICE", help="what an hour of the machine costs")
    return parser


def _png(text: str) -> Path:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .png")
    return _in_a_folder(Path(text))


def _json(text: str) -> str:
    return text if text == STDOUT else str(_in_a_folder(Path(text)))


def _in_a_folder(file: Path) -> Path:
    """A file to write; of its folders the last may be missing, more would rather be a slip."""
    above = file.absolute().parent.parent
    if not file.absolute().parent.exists() and (not above.is_dir() or above == Path(above.anchor)):
        raise argparse.ArgumentTypeError(f"{file}: there is no folder {file.parent}; make it first, or name another")
    return file
