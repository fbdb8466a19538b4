"""Train a LoRA for Stable Diffusion:  accelerate launch train_network.py --config presets/character.toml

`--help` lists every option; `--explain` shows what a config comes to, and where each value is from.
"""

from __future__ import annotations

import sys
from contextlib import closing

from library.config.load import load_config
from library.core.runtime import run_command, uncollected


def main() -> None:
    """One run, from its configuration to its files."""
    loaded = load_config(sys.argv[1:])  # every mistake in it is told here, before torch is imported
    config = loaded.config

    with uncollected():
        from library.models.diffusers_classes import import_model_classes
        from library.models.load import load_model
        from library.training.data import batches, build_data, cache_all, look_through
        from library.training.estimate import tell_memory
        from library.training.finish import begin_folder, finish
        from library.training.length import plan_length
        from library.training.loop import fit
        from library.training.observers import build_observers, sample_requests
        from library.training.plugins import check_plugins, uses_third_parties
        from library.training.run import start_run
        from library.training.trainer import build_trainer, prepare_base, resume, trained_hosts
        from networks.build import build_network

    check_plugins(config)
    run = start_run(loaded)
    datasets, pictures = look_through(run)
    import_model_classes(whole=uses_third_parties(config))
    model = load_model(config.model, run.dtype, run.device)
    data = build_data(run, datasets, pictures, model)
    requests = sample_requests(run, data, model)
    length = plan_length(run, data.updates_per_epoch)
    tell_memory(run, data, length, requests)
    begin_folder(run)
    prepare_base(run, model)
    data = cache_all(run, data, model)
    network = build_network(config.network, trained_hosts(run, model), model.family, run.seed)
    trainer = build_trainer(run, model, network, length)
    resume(run, trainer, data.fingerprint())
    observers = build_observers(run, data, trainer, length, requests)
    with closing(observers.log):
        fit(trainer, batches(run, data, model, length.span), length.span, observers.all)
    finish(run, model, length.span, observers, loaded.warnings)


if __name__ == "__main__":
    sys.exit(run_command(main))
