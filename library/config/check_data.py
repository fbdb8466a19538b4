"""Contradictions among the options of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from library.config.conflicts import Conflict, Situation
from library.config.schema import Config


def latents_that_change(situation: Situation) -> Iterator[Conflict]:
    """Cached latents against pictures that are changed each time."""
    if not (situation.config.data.cache_latents or situation.config.data.cache_latents_to_disk):
        return
    for key in ("color_aug", "random_crop", "face_crop_aug_range"):
        if concerned := _concerned(situation, "images", key):
            yield Conflict(
                ("cache_latents", "cache_latents_to_disk", key),
                f"{key} changes the pictures each time{_in(concerned, situation)}, so their latents cannot be cached: "
                f"turn off {key}, or cache_latents and cache_latents_to_disk.",
            )


def captions_that_change(situation: Situation) -> Iterator[Conflict]:
    """Cached encodings against text encoders that are trained, and against captions that change each time."""
    data = situation.config.data
    if not (data.cache_text_encoder_outputs or data.cache_text_encoder_outputs_to_disk):
        return
    caches = ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk")
    if trains_text_encoder(situation.config):
        yield Conflict(
            (*caches, "text_encoder_lr", "network_train_unet_only"),
            "cache_text_encoder_outputs frees the text encoders, so they cannot be trained: "
            "set network_train_unet_only = true, or text_encoder_lr = 0, or turn the caching off.",
        )
    for key in ("shuffle_caption", "caption_tag_dropout_rate", "enable_wildcard", "token_warmup_step"):
        if concerned := _concerned(situation, "captions", key):
            yield Conflict(
                (*caches, key),
                f"{key} changes the captions each time{_in(concerned, situation)}, so their encodings cannot be cached: "
                f"turn off {key}, or cache_text_encoder_outputs.",
            )


def trains_text_encoder(config: Config) -> bool:
    """Whether a text encoder gets a network with a learning rate."""
    optimizer = config.optimizer
    rates = [optimizer.learning_rate] if optimizer.text_encoder_lr is None else optimizer.text_encoder_lr
    return not config.network.network_train_unet_only and any(rate > 0 for rate in rates)


def names_trigger(situation: Situation) -> bool:
    """Whether there is a trigger word, for the run or for a part of its data."""
    return bool(situation.config.data.trigger_word) or any(subset.trigger_word for subset in situation.subsets)


def buckets(situation: Situation) -> Iterator[Conflict]:
    """The resolution against the range of the buckets' sides."""
    for sizes in situation.buckets:
        if not sizes.enable_bucket or sizes.bucket_no_upscale:
            continue
        low, high = min(sizes.resolution), max(sizes.resolution)
        if sizes.min_bucket_reso > low or sizes.max_bucket_reso < high:
            yield Conflict(
                ("min_bucket_reso", "max_bucket_reso", "resolution"),
                f"resolution {sizes.resolution} lies outside of min_bucket_reso {sizes.min_bucket_reso} to "
                f"max_bucket_reso {sizes.max_bucket_reso}: widen the range of the buckets.",
            )


def masks(situation: Situation) -> Iterator[Conflict]:
    """A masked loss without any masks."""
    has_masks = any(each.conditioning_data_dir or each.alpha_mask for each in situation.images)
    if situation.config.loss.masked_loss and not has_masks:
        yield Conflict(
            ("masked_loss", "conditioning_data_dir", "alpha_mask"),
            "masked_loss has no masks: set conditioning_data_dir (a folder of masks), or alpha_mask = true.",
        )


def keeping_the_prior(situation: Situation) -> Iterator[Conflict]:
    """Prior prediction without a trigger word to leave out."""
    if situation.config.loss.prior_prediction_rate > 0 and not names_trigger(situation):
        yield Conflict(
            ("prior_prediction_rate", "trigger_word"),
            "prior_prediction_rate needs trigger_word: the word in the captions that calls what is trained.",
        )


def _concerned(situation: Situation, treatment: str, key: str) -> list[str]:
    """The subsets whose captions or images turn the option on; the configuration itself where no subset is known."""
    if not situation.subsets:
        return ["the configuration"] if getattr(getattr(situation.config, treatment), key) else []
    return [subset.where for subset in situation.subsets if getattr(getattr(subset, treatment), key)]


def _in(concerned: list[str], situation: Situation) -> str:
    """' in datasets[0].subsets[1]' where not all subsets are concerned."""
    return f" in {', '.join(concerned)}" if len(concerned) < len(situation.subsets) else ""


DATA_CHECKS: tuple[Callable[[Situation], Iterable[Conflict]], ...] = (
    latents_that_change,
    captions_that_change,
    buckets,
    masks,
    keeping_the_prior,
)
