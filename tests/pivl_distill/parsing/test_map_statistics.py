"""Counts over maps, and intersection over union against counting sets of pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pivl_distill.data.vocabulary import COARSE6, IGNORE, LIP20
from pivl_distill.parsing.map_statistics import Agreement, Survey


def test_iou_is_that_of_the_sets_of_pixels() -> None:
    rng = np.random.default_rng(0)
    reference, found = rng.integers(0, 5, (2, 12, 10)).astype(np.uint8)
    reference[0], found[1] = IGNORE, IGNORE
    agreement = Agreement(len(COARSE6))
    for row in range(12):  # map by map
        agreement.add(reference[row], found[row])
    known = (reference != IGNORE) & (found != IGNORE)
    expected = [
        (known & (reference == part) & (found == part)).sum()
        / (known & ((reference == part) | (found == part))).sum()
        for part in range(5)
    ]
    np.testing.assert_allclose(agreement.iou()[:5], expected)
    assert math.isnan(agreement.iou()[5])
    assert agreement.mean_iou == pytest.approx(np.mean(expected))


def test_equal_maps_agree_wholly_and_no_maps_not_at_all() -> None:
    agreement = Agreement(6)
    assert math.isnan(agreement.mean_iou)
    agreement.add(np.array([0, 3, IGNORE], np.uint8), np.array([0, 3, 1], np.uint8))
    assert agreement.mean_iou == 1.0


def test_a_survey_counts_maps_pixels_and_nobody() -> None:
    survey = Survey(LIP20)
    survey.add(Path("a.jpg"), np.array([[0, 0, 1, 14], [18, 14, 255, 255]], np.uint8))
    survey.add(Path("b.jpg"), np.array([[0, 0, 0, 255]], np.uint8))
    assert survey.maps == 2
    assert survey.classes == 4
    assert survey.empty == [Path("b.jpg")]
    assert survey.foreground == 4 / 9
    assert survey.unknown == 3 / 12
    assert survey.left_share == 1.0
    shares = {label: (images, pixels) for label, images, pixels in survey.shares()}
    assert shares["Background"] == (1.0, 5 / 9)
    assert shares["Left-arm"] == (0.5, 2 / 9)
    assert shares["Dress"] == (0.0, 0.0)


def test_a_survey_of_nothing_divides_by_nothing() -> None:
    survey = Survey(COARSE6)
    assert (survey.foreground, survey.unknown, survey.classes) == (0.0, 0.0, 0)
    assert survey.left_share is None
