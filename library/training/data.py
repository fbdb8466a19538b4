"""The training data of a run: looked through, planned and cached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from library.config.dataset import Dataset, resolve_datasets
from library.core.hashing import digest
from library.core.memory import needing_memory
from library.data.cache.filling import cache_latents, cache_texts
from library.data.cache.jobs import Job, captions_lacking, latent_jobs
from library.data.cache.keys import cache_folder, manifest_file
from library.data.cache.store import TensorCache
from library.data.checks.findings import raise_errors, report
from library.data.checks.preflight import preflight
from library.data.dataset import Prior, TrainingData, build_training_data
from library.data.index.pictures import Pictures
from library.data.index.sources import without_mask_pictures
from library.models.base import DiffusionModel, Part
from library.models.caption_length import caption_counter
from library.training.processes.agreement import require_same_data
from library.training.run import Run

FINGERPRINTS = "3"
"""Raised when the models' fingerprints change their meaning, so that no former one is taken for a new one."""

IN_MEMORY = "in memory"
"""Fingerprint of a model whose outputs are kept for the run alone: there is no other model to tell it from."""


@dataclass(frozen=True)
class Caches:
    """Where what the encoders give is kept."""

    latents: TensorCache
    texts: TensorCache


def look_through(run: Run) -> tuple[list[Dataset], Pictures]:
    """Find and judge every picture and caption, before a model is loaded.

    Raises:
        UserErrors: everything that must be mended first.
    """
    config = run.config
    datasets, notices = resolve_datasets(config)
    if not config.loss.masked_loss:
        datasets = [without_mask_pictures(dataset) for dataset in datasets]
    with run.accelerator.local_main_process_first():  # the others find in the manifest what the first has seen
        survey = preflight(
            datasets,
            seed=run.seed,
            strict=config.data.strict,
            max_token_length=config.model.max_token_length or 75,
            count_tokens=caption_counter(config.model.weighted_captions),
            manifest=manifest_file(config.data.cache_dir),
            progress=run.is_main and config.logging.progress,
        )
    run.tell_all([f"notice: {notice}" for notice in notices])
    if survey.findings:
        run.say(report([finding for finding in survey.findings if finding.severity != "error"]))
    raise_errors(survey.findings)
    repeated = int(survey.pictures.of_subsets("repeats").sum())
    processes = f"{run.processes} process{'es' if run.processes > 1 else ''}"
    run.say(f"{len(survey.pictures)} pictures, {repeated} with repeats; {processes} on {run.device.type}")
    return datasets, survey.pictures


def build_data(run: Run, datasets: list[Dataset], pictures: Pictures, model: DiffusionModel) -> TrainingData:
    """This process's share of the data, with buckets that suit the model.

    Raises:
        UserError: sizes that the model cannot have, nothing to train, or processes that do not have the same data.
    """
    config = run.config
    prior = Prior(
        prior_loss_weight=config.loss.prior_loss_weight,
        prior_prediction_rate=config.loss.prior_prediction_rate,
        prior_prediction_weight=config.loss.prior_prediction_weight,
    )
    data = build_training_data(
        datasets,
        pictures,
        seed=run.seed,
        stride=model.latents.stride,
        rank=run.rank,
        processes=run.processes,
        accumulation=config.training.gradient_accumulation_steps,
        prior=prior,
    )
    require_same_data(run.accelerator, data)
    epochs = config.training.max_train_epochs
    steps = config.training.max_train_steps if epochs is None else epochs * data.updates_per_epoch
    return data.for_run_of(steps)


@needing_memory("while the caches were filled", "Lower vae_batch_size or text_encoder_batch_size, or the resolution.")
def cache_all(run: Run, data: TrainingData, model: DiffusionModel) -> TrainingData:
    """Encode what is to be cached and is not yet, then free the encoders.

    Each process encodes its share; then each looks again for what is still missing where it reads, since machines need not
    share a disk.
    """
    config = run.config.data
    caches = Caches(
        latents=_cache(run, "latents", config.cache_latents_to_disk),
        texts=_cache(run, "texts", config.cache_text_encoder_outputs_to_disk),
    )
    cached = _cached(run, data, model, caches)
    run.accelerator.wait_for_everyone()
    if run.processes > 1:
        everything = _cached(run, replace(data, rank=0, processes=1), model, caches)
        cached = replace(everything, rank=data.rank, processes=data.processes)
        run.accelerator.wait_for_everyone()
    for part in parts_of_previews(run, cached):
        model.release(part)
    return cached


def missing_in_caches(run: Run, data: TrainingData, model: DiffusionModel) -> tuple[Sequence[Job], list[str]]:
    """Pictures and captions that `cache_all` will encode: what is kept in memory is always missing."""
    config = run.config.data
    pictures: Sequence[Job] = []
    captions: list[str] = []
    if config.cache_latents:
        latents = _cache(run, "latents", config.cache_latents_to_disk)
        pictures = latent_jobs(data, _fingerprint_of_latents(run, model)).lacking(latents)
    if config.cache_text_encoder_outputs:
        texts = _cache(run, "texts", config.cache_text_encoder_outputs_to_disk)
        captions = captions_lacking(data.captions_in_use(), _fingerprint_of_texts(run, model), texts)
    return pictures, captions


def parts_of_previews(run: Run, data: TrainingData) -> list[Part]:
    """Parts of the model that training does without, since what they give is cached."""
    parts: list[Part] = []
    if data.material.latents is not None:
        parts.append("vae")
    if data.material.texts is not None and not run.config.network.base_weights:
        parts.append("text_encoders")
    return parts


def _cached(run: Run, data: TrainingData, model: DiffusionModel, caches: Caches) -> TrainingData:
    config = run.config.data
    progress = run.is_main and run.config.logging.progress
    if config.cache_latents:
        data = cache_latents(
            data,
            model.encode_images,
            fingerprint=_fingerprint_of_latents(run, model),
            cache=caches.latents,
            batch_size=config.vae_batch_size,
            progress=progress,
        )
    if config.cache_text_encoder_outputs:
        data = cache_texts(
            data,
            model.encode_prompts,
            fingerprint=_fingerprint_of_texts(run, model),
            cache=caches.texts,
            batch_size=config.text_encoder_batch_size,
            progress=progress,
        )
    return data


def _fingerprint_of_latents(run: Run, model: DiffusionModel) -> str:
    return _fingerprint(run, model, "vae") if run.config.data.cache_latents_to_disk else IN_MEMORY


def _fingerprint_of_texts(run: Run, model: DiffusionModel) -> str:
    return _merged_text_encoders(run, model) if run.config.data.cache_text_encoder_outputs_to_disk else IN_MEMORY


def _merged_text_encoders(run: Run, model: DiffusionModel) -> str:
    """Fingerprint of the text encoders as they are, with `base_weights` merged into them."""
    network = run.config.network
    merged = [run.lora_files[file] for file in network.base_weights]
    return digest(
        "text encoders",
        FINGERPRINTS,
        _fingerprint(run, model, "text_encoders"),
        *merged,
        *map(str, network.base_weights_multiplier),
    )


def model_fingerprint(run: Run, model: DiffusionModel) -> str:
    """Of everything frozen, with what is merged into it: tells a resumed run whether its base model is the same."""
    parts = (_fingerprint(run, model, part) for part in ("unet", "vae"))
    return digest("model", FINGERPRINTS, *parts, _merged_text_encoders(run, model))


def _fingerprint(run: Run, model: DiffusionModel, part: Part) -> str:
    return model.fingerprint(part, cache_folder(run.config.data.cache_dir) / "hashes")


def _cache(run: Run, kind: str, on_disk: bool) -> TensorCache:
    return TensorCache(cache_folder(run.config.data.cache_dir) / kind if on_disk else None)
