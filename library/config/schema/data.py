"""Where the training pictures are, and how they are read, captioned, bucketed and cached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from library.config.schema.fields import option, parse_range, parse_size

LONGEST_SIDE = 16384
"""Pixels; beyond it a bucket list has no end and no picture a place in memory."""

MOST_REPEATS = 100_000
"""An epoch is listed showing by showing; a folder named by its date, `20260101_trip`, asks for twenty million."""


@dataclass(frozen=True)
class DataConfig:
    """Where pictures, captions and caches are."""

    train_data_dir: str | None = option(None, path="input")
    """Folder of training pictures: subfolders such as `10_mychar man` (10 repeats), or the pictures themselves."""
    reg_data_dir: str | None = option(None, path="input")
    """Folder of regularisation pictures, laid out like train_data_dir."""
    dataset_config: str | None = option(None, path="input")
    """A dataset TOML with [general], [[datasets]] and [[datasets.subsets]]; these tables may stand in the config itself."""
    general: dict[str, Any] = option(factory=dict)
    """Defaults for every dataset ([general] table)."""
    datasets: list[Any] = option(factory=list)
    """Datasets ([[datasets]] tables with [[datasets.subsets]])."""
    in_json: str | None = option(None, path="input")
    """Metadata of train_data_dir: a .json or .jsonl file that maps pictures to captions and tags."""
    dataset_repeats: int = option(1, minimum=1, maximum=MOST_REPEATS)
    """Repeats of the pictures of in_json, and of subsets in dataset tables that set no num_repeats."""
    trigger_word: str = ""
    """The word that calls the character or style. Checked in captions, written into the LoRA's metadata, and used by
    prior_prediction_rate."""
    class_word: str = ""
    """What the trigger is an example of ("man", "fighter"); stands in for the trigger in prior prediction."""
    cache_latents: bool = False
    """Encode every picture once and keep its latents in memory; frees the VAE."""
    cache_latents_to_disk: bool = False
    """Keep the encoded latents on disk, found again by content in later runs."""
    vae_batch_size: int = option(1, minimum=1)
    """Pictures encoded at a time."""
    cache_text_encoder_outputs: bool = False
    """Encode every caption once; frees the text encoders. Rules out training them, and captions with shuffle or wildcards."""
    cache_text_encoder_outputs_to_disk: bool = False
    """Keep the encoded captions on disk."""
    text_encoder_batch_size: int | None = option(None, minimum=1, zero_is_unset=True)
    """Captions encoded at a time; unset: 16."""
    cache_dir: str | None = option(None, path="output")
    """Folder of the caches. Unset: `~/.cache/lora-dojo`. Deleting it is always safe."""
    max_data_loader_n_workers: int = option(0, minimum=0)
    """Processes that prepare batches ahead; 0 prepares them in the training process. The result is the same."""
    persistent_data_loader_workers: bool = False
    """Accepted for sd-scripts' configs: workers always live as long as the run."""
    strict: bool = False
    """Treat every warning about the data as an error."""


@dataclass(frozen=True)
class BucketConfig:
    """Sizes that pictures are brought to. Each dataset may have its own."""

    resolution: list[int] = option(factory=lambda: [512, 512], parse=parse_size, maximum=LONGEST_SIDE)
    """Training size: 512, [768, 512] or "768,512". With buckets, its area."""
    train_batch_size: int = option(1, minimum=1, aliases=("batch_size",))
    """Pictures in a batch, for each process."""
    enable_bucket: bool = False
    """Keep the pictures' aspect ratios: group them in buckets of similar shape."""
    min_bucket_reso: int = option(256, minimum=1, maximum=LONGEST_SIDE)
    """Shortest side of a bucket."""
    max_bucket_reso: int = option(1024, minimum=1, maximum=LONGEST_SIDE)
    """Longest side of a bucket."""
    bucket_reso_steps: int = option(64, minimum=8, maximum=LONGEST_SIDE)
    """Bucket sides are multiples of this."""
    bucket_no_upscale: bool = False
    """Never enlarge a picture: small ones make buckets of their own size."""
    skip_image_resolution: list[int] | None = option(None, parse=parse_size, maximum=LONGEST_SIDE)
    """Leave out pictures whose area is not above this size's, such as 768 or "768,512": for a dataset of a higher resolution that
    shares its folder with one of a lower."""
    validation_split: float = option(0.0, minimum=0, maximum=1)
    """Share of the pictures held out to measure the validation loss."""
    validation_seed: int | None = None
    """Seed of the choice of held-out pictures; unset: the run's seed."""
    network_multiplier: float = 1.0
    """Strength of the network for this dataset."""


@dataclass(frozen=True)
class CaptionConfig:
    """From a caption file to the words that the model reads. Each subset may have its own."""

    caption_extension: str | None = option(None, aliases=("caption_extention",))
    """Ending of caption files. Unset: `.caption` or `.txt`, whichever stands beside the picture."""
    caption_separator: str = ","
    """What separates tags."""
    keep_tokens: int = option(0, minimum=0)
    """This many tags at the front stay in place when tags are shuffled or dropped."""
    keep_tokens_separator: str | None = None
    """A mark in the captions; what stands before it stays in place."""
    secondary_separator: str | None = None
    """A mark that joins tags which move together; becomes caption_separator in the end."""
    shuffle_caption: bool = False
    """Shuffle the tags anew each time."""
    enable_wildcard: bool = False
    """Read `{red|blue}` as a choice, and several lines as alternatives."""
    caption_prefix: str | None = None
    """Put before every caption."""
    caption_suffix: str | None = None
    """Put after every caption."""
    caption_dropout_rate: float = option(0.0, minimum=0, maximum=1)
    """Share of the samples that train with an empty caption."""
    caption_dropout_every_n_epochs: int = option(0, minimum=0)
    """Train every n-th epoch with empty captions; 0 never."""
    caption_tag_dropout_rate: float = option(0.0, minimum=0, maximum=1)
    """Probability of dropping a tag."""
    token_warmup_min: int = option(1, minimum=0)
    """Tags used at the start of the tag warm-up."""
    token_warmup_step: float = option(0.0, minimum=0)
    """Steps (or share of the run) over which the number of tags grows to all; 0 uses all at once."""


@dataclass(frozen=True)
class ImageConfig:
    """How a picture is changed each time it is seen. Each subset may have its own."""

    flip_aug: bool = False
    """Mirror half of the pictures, drawn anew each time. Not for asymmetric characters."""
    color_aug: bool = False
    """Vary hue and gamma slightly; rules out cached latents."""
    random_crop: bool = False
    """Crop at a random place instead of the centre; rules out cached latents."""
    face_crop_aug_range: list[float] | None = option(None, parse=parse_range)
    """Zoom range of the face crop, for pictures named `..._cx_cy_w_h`."""
    alpha_mask: bool = False
    """Weigh the loss by the picture's alpha channel."""
    conditioning_data_dir: str | None = option(None, path="input")
    """Folder of masks named like the pictures, for masked_loss."""
    background_color: str = "white"
    """Colour behind transparent pictures, as a name or #rrggbb."""
    resize_interpolation: Literal["lanczos", "bicubic", "bilinear", "area", "nearest", "box"] | None = option(
        None, parse=lambda name: {"linear": "bilinear", "cubic": "bicubic"}.get(name, name)
    )
    """Filter for resizing (linear and cubic are understood too). Unset: area where a picture is made smaller, lanczos where it is
    made larger."""


@dataclass(frozen=True)
class SubsetConfig:
    """Keys that exist in the dataset tables alone. image_dir, metadata_file and is_reg belong to [[datasets.subsets]];
    the others may stand in [general] and [[datasets]] too, as may every option of the caption and image groups."""

    image_dir: str | None = option(None, path="input")
    """Folder of the subset's pictures, without its subfolders, unless `recursive` is set."""
    metadata_file: str | None = option(None, path="input")
    """A .json or .jsonl file that maps pictures to captions, in place of caption files."""
    recursive: bool = False
    """Use the pictures in all subfolders of image_dir too."""
    is_reg: bool = False
    """These are regularisation pictures."""
    num_repeats: int = option(1, minimum=1, maximum=MOST_REPEATS)
    """How often each picture is used in an epoch."""
    class_tokens: str | None = None
    """Caption of pictures that have no caption file."""
    custom_attributes: dict[str, Any] = option(factory=dict)
    """Free values, handed through to the metadata. {diff_output_preservation = true} is more: the target is the frozen model's own
    prediction, so that these pictures, with their captions as they are, teach the LoRA what to leave unchanged."""
    cache_info: bool = False
    """Accepted for sd-scripts' configs: the sizes of pictures are always remembered."""
