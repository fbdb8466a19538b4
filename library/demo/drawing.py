"""Draws a `Look` as a picture: background, shadow, body, head; supersampled, deterministic."""

from __future__ import annotations

import random

from PIL import Image

from library.demo.body import draw_arms, draw_legs, draw_torso, outfit_of
from library.demo.brush import Brush, Camera, disc
from library.demo.head import HeadFrame, draw_back_hair, draw_head, draw_headband
from library.demo.look import (
    ACCENT_COLOURS,
    CHARACTER_HAIR_COLOURS,
    CHARACTER_OUTFIT_COLOURS,
    HAIR_COLOURS,
    OUTFIT_COLOURS,
    SKINS,
    Look,
)
from library.demo.scenery import draw_background
from library.demo.skeleton import GROUND, HEAD_RADIUS, POSE_ANGLES, Skeleton, skeleton

SHADOW = (70, 60, 72)


def draw(look: Look, size: int = 64, supersampling: int = 4) -> Image.Image:
    """An RGB picture of `size` x `size` pixels; the same look always gives the same bytes."""
    rng = random.Random(f"draw-{look.seed}")
    canvas = Image.new("RGB", (size * supersampling, size * supersampling))
    draw_background(Brush(canvas, Camera()), look.background, rng)
    bones = skeleton(POSE_ANGLES[look.pose], rng)
    brush = Brush(canvas, _camera(look, bones, rng))
    if look.framing == "full body":
        brush.paint([disc((bones.pelvis[0], GROUND + 0.02), 0.2, 0.028)], SHADOW, ink=False)
    _draw_fighter(brush, look, bones)
    return canvas.resize((size, size), Image.Resampling.BOX)


def _camera(look: Look, bones: Skeleton, rng: random.Random) -> Camera:
    sway = (rng.gauss(0, 0.012), rng.gauss(0, 0.008))
    zoom = rng.uniform(0.95, 1.03)
    if look.framing == "full body":
        return Camera((0.5, 0.6), (0.5 + sway[0], 0.6 + sway[1]), zoom)
    if look.framing == "upper body":
        x, y = 0.6 * bones.neck + 0.4 * bones.head
        return Camera((0.5 * x + 0.25, float(y)), (0.5 + sway[0], 0.56 + sway[1]), 1.5 * zoom)
    x, y = bones.head
    return Camera((float(x), float(y)), (0.5 + sway[0], 0.53 + sway[1]), 2.1 * zoom)


def _draw_fighter(brush: Brush, look: Look, bones: Skeleton) -> None:
    hair_colour = (HAIR_COLOURS | CHARACTER_HAIR_COLOURS)[look.hair_colour]
    cloth = (OUTFIT_COLOURS | CHARACTER_OUTFIT_COLOURS)[look.outfit_colour]
    skin = SKINS[look.skin]
    outfit = outfit_of(look, cloth, skin)
    head = HeadFrame(bones.head, HEAD_RADIUS, bones.tilt)
    draw_back_hair(brush, head, look.hair_style, hair_colour)
    draw_legs(brush, bones, outfit, look, cloth)
    draw_torso(brush, bones, outfit, look, cloth, skin)
    in_front = POSE_ANGLES[look.pose].arms_in_front
    if not in_front:
        draw_arms(brush, bones, outfit, look, skin)
    draw_head(brush, head, skin, look.expression, look.hair_style, hair_colour)
    if look.headband is not None:
        draw_headband(brush, head, ACCENT_COLOURS[look.headband])
    if in_front:
        draw_arms(brush, bones, outfit, look, skin)
