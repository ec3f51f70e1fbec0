"""Synthetic cameras: each has one place, one viewpoint and one image formation.

The cameras of a network differ in illumination, colour response, sharpness and background, as in
RandPerson (Wang et al., ACM MM 2020). Each factor is a separate field, so that it can be varied
alone (as in PersonX, Sun & Zheng, CVPR 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_GOLDEN = (math.sqrt(5) - 1) / 2
"""Step between viewpoints, in full turns; it spreads any number of cameras around people."""

Matrix3 = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Camera:
    """Viewpoint and image formation of a camera; pixel lengths refer to a crop 128 pixels high."""

    # viewpoint: independent of `cast`
    yaw_rad: float  # 0: people walk towards the camera
    spread_rad: float  # standard deviation of a person's yaw around it
    pitch_rad: float  # downward tilt of the camera
    horizon: float  # boundary of wall and floor, as a share of the crop's height
    palette: tuple[tuple[float, float, float], ...]  # RGB of wall, floor and two kinds of clutter
    clutter: int  # mean number of objects in the background
    # image formation: neutral at `cast` 0
    colour: Matrix3  # applied to RGB columns
    gamma: float
    gain: float
    exposure_jitter: float  # standard deviation of log gain and log gamma between crops
    haze: float  # share of gray mixed in
    light: float  # side light, -1 (from the left) to 1
    blur_px: float  # standard deviation
    resolution: float  # sensor resolution, as a share of the crop's
    noise: float  # standard deviation in 8-bit steps
    jpeg_quality: int
    # disturbances: none at `cast` 0
    occlusion: float  # share of crops with an object in front of the person
    crowding: float  # share of crops with a second person behind
    truncation: float  # share of crops cut by the detector


def camera(seed: int, index: int, cast: float = 1.0) -> Camera:
    """Return camera `index` of the network `seed`.

    `cast` scales the deviation of its image formation from a neutral camera: 0 is neutral; at 1,
    the cameras of a network differ strongly. Viewpoint and background do not depend on `cast`.
    """
    start = np.random.default_rng((seed, 20)).random()
    place = np.random.default_rng((seed, index, 21))
    image = np.random.default_rng((seed, index, 22))
    away = np.diag(image.uniform(-0.2, 0.15, 3)) + image.normal(0, 0.03, (3, 3))
    return Camera(
        yaw_rad=2
        * math.pi
        * (start + index * _GOLDEN + place.uniform(-0.05, 0.05))
        % (2 * math.pi),
        spread_rad=place.uniform(0.5, 1.3),
        pitch_rad=place.uniform(0.05, 0.4),
        horizon=place.uniform(0.2, 0.65),
        palette=tuple(_muted(place) for _ in range(4)),
        clutter=int(place.integers(2, 8)),
        colour=tuple(tuple(row) for row in (np.eye(3) + cast * away).tolist()),
        gamma=math.exp(cast * image.uniform(-0.4, 0.45)),
        gain=math.exp(cast * image.uniform(-0.35, 0.2)),
        exposure_jitter=cast * 0.1,
        haze=cast * image.uniform(0, 0.18),
        light=cast * image.uniform(-1, 1),
        blur_px=cast * image.uniform(0.1, 0.75),
        resolution=1 - cast * image.uniform(0, 0.6),
        noise=cast * image.uniform(1, 8),
        jpeg_quality=round(100 - cast * image.uniform(15, 70)),
        occlusion=cast * image.uniform(0.05, 0.4),
        crowding=cast * image.uniform(0.05, 0.3),
        truncation=cast * image.uniform(0.02, 0.12),
    )


def _muted(rng: np.random.Generator) -> tuple[float, float, float]:
    """Sample the RGB of an outdoor surface: any brightness, low saturation."""
    red, green, blue = np.clip(rng.uniform(50, 200) + rng.normal(0, 16, 3), 10, 245).tolist()
    return red, green, blue
