"""Counts over maps, and IoU against sets of pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.data.vocabulary import COARSE6, IGNORE, LIP20
from pivl_distill.parsing.map_statistics import ConfusionMatrix, MapStatistics


def test_iou_matches_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    reference, predicted = rng.integers(0, 5, (2, 12, 10)).astype(np.uint8)
    reference[0], predicted[1] = IGNORE, IGNORE
    agreement = ConfusionMatrix(len(COARSE6))
    for row in range(12):  # map by map
        agreement.add(reference[row], predicted[row])
    known = (reference != IGNORE) & (predicted != IGNORE)
    expected = [
        (known & (reference == part) & (predicted == part)).sum()
        / (known & ((reference == part) | (predicted == part))).sum()
        for part in range(5)
    ]
    np.testing.assert_allclose(agreement.iou()[:5], expected)
    assert math.isnan(agreement.iou()[5])
    assert agreement.mean_iou == pytest.approx(np.mean(expected))


def test_mean_iou_is_one_for_equal_maps_and_nan_without_maps() -> None:
    agreement = ConfusionMatrix(6)
    assert math.isnan(agreement.mean_iou)
    agreement.add(np.array([0, 3, IGNORE], np.uint8), np.array([0, 3, 1], np.uint8))
    assert agreement.mean_iou == 1.0


def test_statistics_count_maps_pixels_and_empty_maps() -> None:
    statistics = MapStatistics(LIP20)
    statistics.add(Path("a.jpg"), np.array([[0, 0, 1, 14], [18, 14, 255, 255]], np.uint8))
    statistics.add(Path("b.jpg"), np.array([[0, 0, 0, 255]], np.uint8))
    assert statistics.maps == 2
    assert statistics.classes == 4
    assert statistics.empty == [Path("b.jpg")]
    assert statistics.foreground == 4 / 9
    assert statistics.unknown == 3 / 12
    assert statistics.left_share == 1.0
    shares = {label: (images, pixels) for label, images, pixels in statistics.shares()}
    assert shares["Background"] == (1.0, 5 / 9)
    assert shares["Left-arm"] == (0.5, 2 / 9)
    assert shares["Dress"] == (0.0, 0.0)


def test_statistics_without_maps_are_zero() -> None:
    statistics = MapStatistics(COARSE6)
    assert (statistics.foreground, statistics.unknown, statistics.classes) == (0.0, 0.0, 0)
    assert statistics.left_share is None
