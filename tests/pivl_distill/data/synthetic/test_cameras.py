"""Cameras: `cast` scales the image formation and nothing else."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from pivl_distill.data.synthetic.cameras import camera
from pivl_distill.data.synthetic.optics import photograph

PLACE = ("yaw_rad", "spread_rad", "pitch_rad", "horizon", "palette", "clutter")


def test_same_seed_and_index_give_the_same_camera() -> None:
    assert camera(1, 2) == camera(1, 2)
    assert len({camera(seed, index) for seed in range(3) for index in range(3)}) == 9


def test_viewpoint_does_not_depend_on_cast() -> None:
    weak, strong = (asdict(camera(0, 1, cast)) for cast in (0.1, 1.0))
    for name, value in weak.items():
        assert (value == strong[name]) == (name in PLACE), name


def test_cast_zero_is_neutral_for_every_camera() -> None:
    images = [
        {name: value for name, value in asdict(camera(0, index, 0.0)).items() if name not in PLACE}
        for index in range(3)
    ]
    assert images[0] == images[1] == images[2]
    scene = np.random.default_rng(0).integers(0, 256, (32, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        photograph(scene, camera(0, 0, 0.0), np.random.default_rng(1)), scene
    )


def test_deviations_are_proportional_to_cast() -> None:
    half, full = camera(0, 3, 0.5), camera(0, 3, 1.0)
    np.testing.assert_allclose(
        2 * (np.array(half.colour) - np.eye(3)), np.array(full.colour) - np.eye(3)
    )
    for name in ("haze", "light", "blur_px", "noise", "occlusion", "crowding", "truncation"):
        np.testing.assert_allclose(2 * getattr(half, name), getattr(full, name))
    for name in ("gamma", "gain"):
        np.testing.assert_allclose(getattr(half, name) ** 2, getattr(full, name))
    np.testing.assert_allclose(2 * (1 - half.resolution), 1 - full.resolution)


def test_viewpoints_surround_people() -> None:
    yaws = np.sort([camera(5, index).yaw_rad for index in range(6)])
    gaps = np.diff(np.append(yaws, yaws[0] + 2 * np.pi))
    assert gaps.max() < np.pi


def test_each_factor_of_image_formation_changes_the_image() -> None:
    scene = np.random.default_rng(0).integers(60, 200, (64, 32, 3)).astype(np.uint8)
    neutral = camera(0, 0, 0.0)
    flaws: dict[str, Any] = {
        "colour": ((0.8, 0, 0), (0, 1, 0), (0, 0, 1)), "gamma": 1.4, "gain": 0.7, "haze": 0.2,
        "blur_px": 1.0, "resolution": 0.5, "noise": 5.0, "jpeg_quality": 30,
        "exposure_jitter": 0.2,
    }  # fmt: skip
    for name, value in flaws.items():
        flawed = photograph(scene, replace(neutral, **{name: value}), np.random.default_rng(1))
        assert flawed.shape == scene.shape
        assert flawed.dtype == np.uint8
        assert (flawed != scene).any(), name
