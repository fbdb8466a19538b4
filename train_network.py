"""Train a LoRA for Stable Diffusion:  accelerate launch train_network.py --config presets/character.toml

`--help` lists every option; `--explain` shows what a config comes to, and where each value is from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from library.config.load import LoadedConfig, load_config
from library.core.runtime import run_command, uncollected
from library.training.processes.peers import ending_together

if TYPE_CHECKING:
    from accelerate import Accelerator


def main() -> int:
    """Train with what the command line says; returns the exit status."""
    with ending_together() as join:  # where one process fails or dies, all end
        return train(load_config(sys.argv[1:]), join)  # every mistake in it is told here, before torch is imported


def train(loaded: LoadedConfig, join: Callable[[], Accelerator]) -> int:
    """One run, from its configuration to its files; returns the exit status.

    Args:
        join: joins the other processes of the run.
    """
    with uncollected():
        from library.models.diffusers_classes import import_model_classes
        from library.models.load import load_model
        from library.models.pickles import without_pickles
        from library.training.data import build_data, cache_all, look_through
        from library.training.finish import begin_folder, finish
        from library.training.length import plan_length
        from library.training.loading import batches
        from library.training.loop import fit
        from library.training.needs.disk import tell_disk
        from library.training.needs.estimate import tell_memory, telling_what_takes_less
        from library.training.needs.pace import tell_pace
        from library.training.observers import build_observers, sample_requests
        from library.training.plugins import check_plugins, uses_third_parties
        from library.training.run import start_run
        from library.training.state.leftovers import clear_leftovers_of
        from library.training.stopping import requests_to_stop
        from library.training.trainer import build_trainer, captured_passes, prepare_base, resume, trained_hosts
        from networks.build import build_network

    config = without_pickles(loaded.config)
    check_plugins(config)
    accelerator = join()
    clear_leftovers_of(config, accelerator)
    run = start_run(loaded, config, accelerator)
    datasets, pictures = look_through(run)
    import_model_classes(whole=uses_third_parties(config))
    model = load_model(config.model, run.dtype, run.device)
    data = build_data(run, datasets, pictures, model)
    requests = sample_requests(run, data, model)
    length = plan_length(run, data.updates_per_epoch)
    meta_run = tell_memory(run, data, length, requests)
    tell_disk(run, data, model, length.span, requests, meta_run)
    tell_pace(run, length.span, meta_run)
    begin_folder(run)
    prepare_base(run, model)
    data = cache_all(run, data, model)
    network = build_network(config.network, trained_hosts(run, model), model.family, run.seed)
    trainer = build_trainer(run, model, network, length)
    trainer.captured = captured_passes(run, trainer, data)
    resume(run, trainer, data)
    observers = build_observers(run, data, trainer, length, requests, meta_run)
    asked_to_stop = requests_to_stop(run, observers.saver.seconds, trainer.lag)
    with closing(observers), run.signals.caught(), telling_what_takes_less(run, length):
        ending = fit(trainer, batches(run, data, model, length.span), length.span, observers.all, asked_to_stop)
    return finish(run, model, length.span, ending, observers, loaded.warnings)


if __name__ == "__main__":
    sys.exit(run_command(main))
