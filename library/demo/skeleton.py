"""Poses as joint angles, and the skeleton they give."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from library.demo.brush import Points, direction

THIGH, SHIN, TORSO, UPPER_ARM, FOREARM = 0.118, 0.118, 0.205, 0.112, 0.108
SHOULDER, HIP, NECK_TO_HEAD, HEAD_RADIUS = 0.09, 0.046, 0.112, 0.157
STANDING_HEIGHT = 0.232
GROUND = 0.9

Angles = tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """Absolute limb directions in degrees (see `brush.direction`), left and right as on the screen."""

    left_arm: Angles
    right_arm: Angles
    left_leg: Angles
    right_leg: Angles
    lean: float = 0.0
    tilt: float = 0.0
    shift: float = 0.0
    lift: float = 0.0
    arms_in_front: bool = False


POSE_ANGLES: dict[str, Pose] = {
    "standing": Pose((-28, -12), (28, 12), (-10, -4), (10, 4)),
    "punching": Pose((-75, 60), (92, 90), (-48, -24), (40, 2), lean=10, shift=-0.1, lift=-0.035),
    "kicking": Pose((-80, -40), (70, 165), (-4, 2), (108, 104), lean=-24, tilt=-8, shift=-0.06),
    "guard stance": Pose((-38, 128), (52, 168), (-30, -8), (30, 8), lift=-0.02, arms_in_front=True),
    "crouching": Pose((-40, 8), (40, -8), (-78, 8), (78, -8), lift=-0.1),
    "jumping": Pose((-128, -150), (128, 150), (-62, 12), (62, 80), lift=0.07),
    "victory pose": Pose((-64, 70), (140, 168), (-24, -10), (24, 10), tilt=-6, arms_in_front=True),
    "bowing": Pose((-52, -40), (-40, -30), (-4, 0), (6, 2), lean=58, tilt=32, shift=-0.15),
    "meditating": Pose((-42, 36), (42, -36), (-82, 72), (82, -72), lift=-0.165),
    "arms crossed": Pose((-30, 82), (30, -82), (-18, -6), (18, 6), arms_in_front=True),
    "crane stance": Pose((-112, -40), (112, 40), (-2, 0), (84, -14), lean=-3),
}


@dataclass(frozen=True)
class Limb:
    """Root, joint, tip: shoulder, elbow, hand or hip, knee, foot."""

    root: Points
    joint: Points
    tip: Points


@dataclass(frozen=True)
class Skeleton:
    pelvis: Points
    neck: Points
    head: Points
    lean: float
    tilt: float
    left_arm: Limb
    right_arm: Limb
    left_leg: Limb
    right_leg: Limb

    @property
    def legs(self) -> tuple[Limb, Limb]:
        return self.left_leg, self.right_leg

    @property
    def arms(self) -> tuple[Limb, Limb]:
        return self.left_arm, self.right_arm

    def on_torso(self, across: float, up: float) -> Points:
        """A point of the torso: `across` in figure units to the right, `up` from pelvis (0) to neck (1)."""
        along = self.neck - self.pelvis
        side = np.array([-along[1], along[0]]) / np.linalg.norm(along)
        return self.pelvis + up * along + across * side


def skeleton(pose: Pose, rng: random.Random) -> Skeleton:
    """Place the joints; every angle varies by a few degrees."""

    def vary(angles: Angles) -> Angles:
        return angles[0] + rng.gauss(0, 4), angles[1] + rng.gauss(0, 4)

    lean = pose.lean + rng.gauss(0, 2)
    tilt = pose.tilt + rng.gauss(0, 3)
    up = direction(180 - lean)
    side = np.array([-up[1], up[0]])
    pelvis = np.array([0.5 + pose.shift, GROUND - STANDING_HEIGHT - pose.lift])
    neck = pelvis + TORSO * up
    shoulders = neck - 0.035 * up
    hips = np.array([HIP, 0.0])
    return Skeleton(
        pelvis=pelvis,
        neck=neck,
        head=neck + NECK_TO_HEAD * direction(180 - lean * 0.7 - tilt * 0.3),
        lean=lean,
        tilt=tilt,
        left_arm=_limb(shoulders - SHOULDER * side, vary(pose.left_arm), UPPER_ARM, FOREARM),
        right_arm=_limb(shoulders + SHOULDER * side, vary(pose.right_arm), UPPER_ARM, FOREARM),
        left_leg=_limb(pelvis - hips, vary(pose.left_leg), THIGH, SHIN),
        right_leg=_limb(pelvis + hips, vary(pose.right_leg), THIGH, SHIN),
    )


def _limb(root: Points, angles: Angles, first: float, second: float) -> Limb:
    joint = root + first * direction(angles[0])
    return Limb(root, joint, joint + second * direction(angles[1]))
