"""From a picture and what was drawn for it to an `Example`: cached tensors where there are any, else pixels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from library.config.dataset import Dataset, Subset
from library.config.schema.data import ImageConfig
from library.core.errors import UserError
from library.core.hashing import content_hash
from library.data.cache.keys import latent_key, text_key
from library.data.cache.store import TensorCache, Tensors
from library.data.index.pictures import Picture, Pictures
from library.data.pictures.buckets import Size, Sizes
from library.data.pictures.images import PictureError, decode, decode_mask, jittered, over_background, placed
from library.data.pictures.placement import Placement, around_face, at_random, centred, face_of, mirrored
from library.data.pictures.tensors import to_mask, to_pixels
from library.data.types import Example, LatentDistribution


@dataclass(frozen=True)
class Encoded:
    """A cache and the model that filled it."""

    cache: TensorCache
    fingerprint: str


@dataclass(frozen=True)
class Material:
    """Everything that examples are made from."""

    datasets: Sequence[Dataset]
    pictures: Pictures
    sizes: Sizes
    """Training size of each picture."""
    stride: int
    """Pixels per latent."""
    latents: Encoded | None = None
    texts: Encoded | None = None

    def subset(self, picture: Picture) -> Subset:
        """The settings of a picture."""
        return self.datasets[picture.dataset].subsets[picture.subset]


@dataclass(frozen=True)
class Role:
    """What one sample is used for; fields as in `Example`."""

    position: tuple[int, int]
    weight: float = 1.0
    keeps_prior: bool = False


def example(
    material: Material, index: int, placement: Placement, caption: str, role: Role, jitter: random.Random | None = None
) -> Example:
    """The example of picture `index`, placed and captioned.

    Raises:
        UserError: the file is gone or has changed since it was checked, or a cache entry has vanished.
    """
    picture = material.pictures[index]
    latents, pixels, mask = _contents(material, picture, placement, jitter)
    return Example(
        position=role.position,
        image=str(picture.path),
        caption=caption,
        latents=latents,
        pixels=pixels,
        conditioning=_conditioning(material, caption),
        mask=mask,
        geometry=placement.geometry(),
        weight=role.weight,
        keeps_prior=role.keeps_prior,
        multiplier=material.datasets[picture.dataset].buckets.network_multiplier,
    )


def drawn_placement(picture: Picture, size: Size, images: ImageConfig, rng: random.Random) -> Placement:
    """Resize, crop and flip of one showing of a picture."""
    flips = images.flip_aug and rng.random() < 0.5
    face = face_of(picture.path.stem) if images.face_crop_aug_range else None
    if face is not None and images.face_crop_aug_range:
        placement = around_face(picture.size, size, face, images.face_crop_aug_range, images.random_crop, rng)
    else:
        placement = at_random(picture.size, size, rng) if images.random_crop else centred(picture.size, size)
    return mirrored(placement) if flips else placement


def all_placements(picture: Picture, size: Size, images: ImageConfig) -> list[Placement]:
    """Every placement that `drawn_placement` can draw, where nothing but the flip is left to chance."""
    upright = drawn_placement(picture, size, replace(images, flip_aug=False), random.Random(0))
    return [upright, mirrored(upright)] if images.flip_aug else [upright]


def placement_varies(images: ImageConfig) -> str:
    """The option that makes every showing of a picture different, so that latents cannot be cached; "" if none does."""
    zoom = images.face_crop_aug_range
    varying = {
        "random_crop": images.random_crop,
        "color_aug": images.color_aug,
        "face_crop_aug_range": zoom is not None and zoom[0] != zoom[1],
    }
    return next((name for name, on in varying.items() if on), "")


def load_pixels(
    material: Material, picture: Picture, placement: Placement, jitter: random.Random | None = None
) -> tuple[Tensor, Tensor | None]:
    """Pixels (3, H, W) in [-1, 1], and the mask (1, h, w) where the subset has one.

    Raises:
        UserError: the file is gone or has changed since it was checked.
    """
    images = material.subset(picture).images
    try:
        decoded = decode(read_unchanged(picture.path, picture.content))
        opacity = decoded.alpha
        if picture.mask_path is not None:
            opacity = decode_mask(read_unchanged(picture.mask_path, picture.mask_content))
    except PictureError as error:
        raise UserError(f"{picture.path}: {error}") from error
    image = placed(over_background(decoded, images.background_color), placement, images.resize_interpolation)
    image = jittered(image, jitter) if jitter is not None and images.color_aug else image
    return to_pixels(image), _mask(picture, images, opacity, placement, material.stride)


def key_of_latents(material: Material, picture: Picture, placement: Placement, fingerprint: str) -> str:
    """Cache key of a picture's latents and mask."""
    images = material.subset(picture).images
    mask = picture.mask_content or ("alpha" if images.alpha_mask else "")
    filter_name = images.resize_interpolation or "area or lanczos"
    return latent_key(picture.content, fingerprint, placement, images.background_color, filter_name, mask)


def read_unchanged(path: Path, content: str) -> bytes:
    """Bytes of a file that was checked before.

    Raises:
        UserError: it is gone, or its bytes are not those that were checked.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: was there when the run began and cannot be read now ({error.strerror or error}). "
            "Put it back, or start again without it."
        ) from error
    if content_hash(data) != content:
        raise UserError(f"{path}: was changed since the run began. Start again, so that the data are checked anew.")
    return data


def _contents(
    material: Material, picture: Picture, placement: Placement, jitter: random.Random | None
) -> tuple[LatentDistribution | None, Tensor | None, Tensor | None]:
    if material.latents is None:
        pixels, mask = load_pixels(material, picture, placement, jitter)
        return None, pixels, mask
    key = key_of_latents(material, picture, placement, material.latents.fingerprint)
    tensors = _stored(material.latents.cache, key, f"latents of {picture.path}")
    return LatentDistribution(tensors["mean"], tensors["std"]), None, tensors.get("mask")


def _conditioning(material: Material, caption: str) -> Tensors | None:
    if material.texts is None:
        return None
    key = text_key(caption, material.texts.fingerprint)
    return _stored(material.texts.cache, key, f"encoded caption '{caption}'")


def _stored(cache: TensorCache, key: str, what: str) -> Tensors:
    tensors = cache.get(key)
    if tensors is None:
        raise UserError(
            f"the cached {what} vanished while the run was on. Start again (or resume): the cache in "
            f"{cache.folder} is filled anew."
        )
    return tensors


def _mask(
    picture: Picture, images: ImageConfig, opacity: Image.Image | None, placement: Placement, stride: int
) -> Tensor | None:
    """The mask file, else the opacity under `alpha_mask`; all of the picture counts where it has none."""
    if picture.mask_path is None and not images.alpha_mask:
        return None
    if opacity is None:
        width, height = placement.target
        return torch.ones(1, height // stride, width // stride)
    return to_mask(opacity, placement, stride)
