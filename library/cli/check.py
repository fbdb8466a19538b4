"""Look through a config's pictures and captions before training, without loading a model.

    dojo check --config presets/character.toml --train_data_dir pictures/anna

Takes the same options as train_network.py (`train_network.py --help` lists them). Exit status 0: ready; 2: something must be mended first.
"""

from __future__ import annotations

from collections.abc import Sequence

from library.cli.arguments import DEMO_MODEL, command_parser


def options_of(argv: Sequence[str]) -> list[str]:
    """The run's options; the command's own --help is printed here and ends the process."""
    parser = command_parser("check", __doc__)
    parser.allow_abbrev = False
    parser.usage = "dojo check [options of train_network.py]"
    return parser.parse_known_args(argv)[1]


def with_a_model(argv: Sequence[str]) -> list[str]:
    """The command line with the embedded model where it names data only: looking at pictures needs no model of the user's."""
    names_data = any(word.split("=")[0] in ("--train_data_dir", "--dataset_config", "--in_json") for word in argv)
    names_model = any(word.split("=")[0] == "--pretrained_model_name_or_path" for word in argv)
    return [*argv, "--pretrained_model_name_or_path", str(DEMO_MODEL)] if names_data and not names_model else list(argv)


def main(argv: Sequence[str]) -> None:
    """Read the config, survey the data, and print what was found."""
    from library.config.dataset import resolve_datasets
    from library.config.load import load_config
    from library.core.terminal import harmless
    from library.data.checks.findings import raise_errors, report
    from library.data.checks.preflight import preflight
    from library.models.caption_length import caption_counter

    loaded = load_config(with_a_model(options_of(argv)))
    datasets, notices = resolve_datasets(loaded.config)
    for text in [*loaded.warnings, *loaded.notices, *notices]:
        print(harmless(f"notice: {text}"))
    survey = preflight(
        datasets,
        strict=loaded.config.data.strict,
        max_token_length=loaded.config.model.max_token_length or 75,
        count_tokens=caption_counter(loaded.config.model.weighted_captions),
        progress=True,
    )
    if survey.findings:
        print(harmless(report([finding for finding in survey.findings if finding.severity != "error"])))
    raise_errors(survey.findings)
    print(
        f"{len(survey.pictures)} pictures, {sum(picture.repeats for picture in survey.pictures)} with repeats: ready."
    )
