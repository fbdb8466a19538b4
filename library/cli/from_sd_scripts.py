"""Read a config of sd-scripts, say what a run with it does and what differs, and write it as a preset of this project.

    dojo from-sd-scripts config.toml --out my_character.toml
    dojo from-sd-scripts "accelerate launch sdxl_train_network.py --network_dim=16 --xformers ..."

SOURCE is a TOML config, the TOML that kohya's GUI starts a run with, the JSON that it saves, a TOML of LoRA Easy Training Scripts,
a text file that holds a command line (of bash, cmd or PowerShell), or the command line itself in quotes. Neither the model nor the
pictures need be on this machine. Without --out the preset is printed.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from library.cli.arguments import command_parser
from library.config.check_data import trains_text_encoder
from library.config.schema import Config
from library.config.schema.data import BucketConfig
from library.config.sd_scripts.conversion import Conversion, convert_source, missing_parts
from library.config.sd_scripts.preset_text import preset_text
from library.core.errors import Exit, UserError, UserErrors
from library.core.files import write_atomically
from library.core.terminal import harmless

WIDTH = 110


def main(argv: Sequence[str]) -> int:
    """Print what the config comes to, and print or write the preset.

    Returns:
        `Exit.MISTAKE` where something has to be mended, or was left out of the preset.

    Raises:
        UserError: the source cannot be read, or `--out` names a file that is there already.
    """
    parser = command_parser("from-sd-scripts", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="file, or command line in quotes")
    parser.add_argument("--out", metavar="FILE", help="write the preset to this .toml file")
    arguments = parser.parse_args(argv)
    conversion = convert_source(arguments.source)
    name = arguments.out or "my_preset.toml"
    text = preset_text(conversion.config, _beginning(arguments.source, name, conversion))
    to_mend = [*conversion.to_mend, *mistakes_of_plugins(conversion.config)]
    print(harmless(report(conversion, to_mend)))
    if arguments.out is None:
        print(harmless(f"\nThe preset:\n\n{text}"))
    else:
        _write(Path(arguments.out), text)
        print(harmless(f"\nThe preset is in {arguments.out}. Train with it:\n  {_start(arguments.out, conversion)}"))
    return Exit.MISTAKE if to_mend or conversion.left_out else 0


def mistakes_of_plugins(config: Config) -> list[str]:
    """What is wrong with network, optimizer and schedule and their arguments, packages that are missing included."""
    from library.training.plugins import check_plugins

    without_files = replace(config.network, network_weights=None, base_weights=[], dim_from_weights=False)
    try:
        check_plugins(replace(config, network=without_files))
    except UserErrors as errors:
        return errors.messages
    return []


def report(conversion: Conversion, to_mend: Sequence[str]) -> str:
    """What the run does, what differs from what was given, and what stands in its way."""
    does = described(conversion.config, conversion.situation.buckets)
    parts = [
        ("What this run does", [f"{name:10}{says}" for name, says in does]),
        ("Not named in it", missing_parts(conversion.config)),
        ("Under another name here", conversion.renamed),
        ("To mend before it can run", to_mend),
        ("Refused or not understood, and left out of the preset", conversion.left_out),
        ("Good to know", conversion.told),
    ]
    return "\n\n".join("\n".join([f"{title}:", *map(_item, lines)]) for title, lines in parts if lines)


def described(config: Config, buckets: Sequence[BucketConfig]) -> Iterator[tuple[str, str]]:
    """What the run does, by part.

    Args:
        buckets: of every dataset.
    """
    model = config.model
    traits = {"v-prediction": model.v_parameterization, "zero-terminal SNR": model.zero_terminal_snr, "v2": model.v2}
    also = "".join(f", {trait}" for trait, holds in traits.items() if holds)
    name = model.pretrained_model_name_or_path or "(none named)"
    yield "Model", f"{name}{also}; mixed_precision {config.training.mixed_precision}"
    yield "Data", _data(config, buckets)
    yield "Network", _network(config)
    yield "Learning", _learning(config)
    yield "Length", _length(config)
    yield "Files", _files(config)
    if config.sampling.sample_prompts:
        yield "Samples", f"prompts of {config.sampling.sample_prompts}"


def _data(config: Config, buckets: Sequence[BucketConfig]) -> str:
    data = config.data
    named = [name for name in (data.in_json, data.train_data_dir, data.dataset_config) if name]
    if data.datasets:
        subsets = sum(len(table.get("subsets", ())) for table in data.datasets if isinstance(table, dict))
        named = [f"{len(data.datasets)} dataset table(s) with {subsets} subset(s)"]
    if data.reg_data_dir:
        named.append(f"regularisation pictures of {data.reg_data_dir}")
    cached = {"latents": data.cache_latents, "text encodings": data.cache_text_encoder_outputs}
    kept = " and ".join(what for what, is_cached in cached.items() if is_cached)
    sizes = " and ".join(dict.fromkeys(map(_sizes, buckets)))
    return f"{', '.join(named) or '(none named)'}; {sizes}{f'; {kept} cached' if kept else ''}"


def _sizes(buckets: BucketConfig) -> str:
    shapes = "in buckets of many shapes" if buckets.enable_bucket else "all of one shape"
    return f"{' x '.join(map(str, buckets.resolution))} pixels, {shapes}, {buckets.train_batch_size} in a batch"


def _network(config: Config) -> str:
    network = config.network
    scale = network.network_alpha / network.network_dim if network.network_alpha else 1
    parts = ["UNet"] * (not network.network_train_text_encoder_only)
    parts += ["text encoder"] * trains_text_encoder(config)
    arguments = ", ".join(f"{name} = {value}" for name, value in network.network_args.items())
    size = f"rank {network.network_dim}, alpha {network.network_alpha:g} (scale {scale:g})"
    return f"{network.network_module}, {size}{f', {arguments}' if arguments else ''}; in {' and '.join(parts)}"


def _learning(config: Config) -> str:
    optimizer, schedule = config.optimizer, config.schedule
    unet = optimizer.learning_rate if optimizer.unet_lr is None else optimizer.unet_lr
    rates = [f"{unet:g} in the UNet"] * (not config.network.network_train_text_encoder_only)
    if trains_text_encoder(config):
        given = optimizer.text_encoder_lr or [optimizer.learning_rate]
        rates.append(f"{', '.join(f'{rate:g}' for rate in dict.fromkeys(given))} in the text encoder")
    warmup = schedule.lr_warmup_steps
    warming = f", warm-up {f'{warmup:.0%} of the run' if 0 < warmup < 1 else f'{warmup:g} steps'}" if warmup else ""
    return f"{optimizer.optimizer_type}, {', '.join(rates)}; {schedule.lr_scheduler}{warming}"


def _length(config: Config) -> str:
    training = config.training
    steps, epochs = training.max_train_steps, training.max_train_epochs
    length = f"{steps} steps (optimizer updates)" if epochs is None else f"{epochs} epochs"
    batches = training.gradient_accumulation_steps
    several = f", {batches} batches each" if batches > 1 else ""
    return f"{length}{several}; seed {'drawn anew' if training.seed is None else training.seed}"


def _files(config: Config) -> str:
    saving = config.saving
    intervals = {"epoch": saving.save_every_n_epochs, "step": saving.save_every_n_steps}
    between = [f"every {f'{count} {unit}s' if count > 1 else unit}" for unit, count in intervals.items() if count]
    kept = f", and one {' and '.join(between)}" if between else ""
    states = " with states to resume from" if saving.save_state else ""
    return f"{saving.output_dir}/{saving.output_name}.safetensors{kept}{states}"


def _item(text: str) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _beginning(source: str, name: str, conversion: Conversion) -> list[str]:
    """The comment at the top of the preset: where it comes from, and how to train with it."""
    origin = source if len(source.split()) == 1 else "a command line"
    return [f"From {origin}, by `dojo from-sd-scripts`. Train with it:", f"  {_start(name, conversion)}"]


def _start(name: str, conversion: Conversion) -> str:
    return shlex.join([*(conversion.launcher or ("accelerate", "launch")), "train_network.py", "--config", name])


def _write(path: Path, text: str) -> None:
    if path.exists():
        raise UserError(f"--out {path}: this file is there already. Give another name.")
    if path.suffix != ".toml":
        raise UserError(f"--out {path}: expected a name that ends in .toml.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"--out {path}: the config holds characters that no file can: {error.object[error.start]!r}."
        ) from error
    write_atomically(path, lambda file: file.write_text(text, encoding="utf-8", newline="\n"))
