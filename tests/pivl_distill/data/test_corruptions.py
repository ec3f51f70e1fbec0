"""Corruptions: deterministic, stronger from strength to strength, and what their values mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pivl_distill.data.corruptions import (
    CORRUPTIONS,
    STRENGTHS,
    CorruptedCrops,
    check_corruptions,
    corrupt,
)
from pivl_distill.errors import PivlError

SIZE_HW = (64, 32)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """A checkerboard of 8 px on a colour gradient."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    grey = 60 + 100 * ((rows // 8 + columns // 8) % 2) + rows // 2
    return np.stack([grey, grey // 2 + columns, 200 - grey // 2], axis=2).astype(np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.square(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_stronger_corruption_changes_more_and_leaves_the_crop_alone(name, crop):
    before = crop.copy()
    corrupted = [corrupt(crop, name, strength) for strength in STRENGTHS]
    np.testing.assert_array_equal(crop, before)
    assert all(image.shape == crop.shape and image.dtype == np.uint8 for image in corrupted)
    changes = [distance(image, crop) for image in corrupted]
    assert changes[0] > 0
    assert changes[-1] > changes[0]
    np.testing.assert_array_equal(corrupted[2], corrupt(before, name, 3))


def test_random_draws_depend_on_the_crop_and_the_corruption(crop):
    other = crop.copy()
    other[0, 0] += 1
    ours, theirs = corrupt(crop, "noise", 1), corrupt(other, "noise", 1)
    assert np.mean(ours == theirs) < 0.5


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur"])
def test_blurs_keep_brightness_and_flat_areas(name, crop):
    flat = np.full((*SIZE_HW, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt(flat, name, 5), flat)
    dot = np.zeros((*SIZE_HW, 3), np.uint8)
    dot[32, 16] = 255
    blurred = corrupt(dot, name, 1).astype(float)
    assert blurred[..., 0].sum() == pytest.approx(255, rel=0.1)
    rows, columns = np.nonzero(blurred[..., 0])
    assert abs(rows.mean() - 32) < 0.5
    assert abs(columns.mean() - 16) < 0.5


def test_defocus_equals_a_plain_convolution_with_a_disk(crop):
    radius = CORRUPTIONS["defocus_blur"].values[4] * SIZE_HW[0]
    reach = int(np.ceil(radius + 0.5))
    padded = np.pad(crop.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total, weights = np.zeros(crop.shape), 0.0
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            weight = min(1.0, max(0.0, radius + 0.5 - np.hypot(down, right)))
            top, left = reach + down, reach + right
            total += weight * padded[top : top + SIZE_HW[0], left : left + SIZE_HW[1]]
            weights += weight
    np.testing.assert_array_equal(corrupt(crop, "defocus_blur", 5), np.round(total / weights))


def test_noise_and_light_have_the_stated_size():
    grey = np.full((128, 128, 3), 128, np.uint8)
    deviation = (corrupt(grey, "noise", 1).astype(float) - 128).std() / 255
    assert deviation == pytest.approx(0.08, rel=0.03)
    darker = corrupt(grey, "low_light", 1).astype(float)
    light = ((darker / 255) ** 2.2).mean() / (128 / 255) ** 2.2
    assert light == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_occluder_covers_its_share_with_one_colour(crop, strength):
    covered = corrupt(crop, "occlusion", strength)
    changed = (covered != crop).any(axis=2)
    share = CORRUPTIONS["occlusion"].values[strength - 1]
    assert changed.mean() == pytest.approx(share, abs=0.03)
    assert len(np.unique(covered[changed], axis=0)) == 1


def test_a_cast_changes_red_against_blue_and_keeps_green(crop):
    cast = corrupt(crop, "colour_cast", 1).astype(float)
    np.testing.assert_array_equal(cast[..., 1], crop[..., 1])
    red, blue = ((cast / crop)[..., channel].mean() for channel in (0, 2))
    assert red * blue == pytest.approx(1, rel=0.02)
    assert max(red, blue) == pytest.approx(1.1, rel=0.02)


def test_slices_are_corrupted_like_single_crops(crop):
    crops = np.stack([crop, crop[::-1], crop[:, ::-1]])
    view = CorruptedCrops(crops, "motion_blur", 2)
    assert len(view) == 3
    expected = [corrupt(one, "motion_blur", 2) for one in crops[1:]]
    np.testing.assert_array_equal(view[1:3], expected)


def test_unknown_names_and_strengths_are_errors(crop):
    with pytest.raises(PivlError, match="colour_cast"):
        corrupt(crop, "color_cast", 1)
    with pytest.raises(PivlError, match="1 to 5"):
        corrupt(crop, "noise", 6)
    with pytest.raises(PivlError, match="fog"):
        check_corruptions(["noise", "fog"])


def test_the_documentation_has_every_value():
    page = Path(__file__).parents[3].joinpath("docs", "robustness.md").read_text(encoding="utf-8")
    for name, corruption in CORRUPTIONS.items():
        values = ", ".join(f"{value:.3g}" for value in corruption.values)
        assert f"| `{name}` | {values} | {corruption.description} |" in page
