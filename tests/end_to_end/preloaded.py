"""Everything that a run imports, for the server that runs are forked from; nothing is computed, as threads do not survive a fork."""

from importlib import import_module

for name in (
    "train_network",
    "library.inference.sample",
    "library.training.needs.estimate",
    "library.training.finish",
    "library.training.trainer",
    "networks.lora",
):
    import_module(name)
import_module("library.models.diffusers_classes").import_model_classes(whole=False)
