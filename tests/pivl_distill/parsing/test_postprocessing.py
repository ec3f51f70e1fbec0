"""Remapping and filtering of maps before they are written."""

from __future__ import annotations

import numpy as np

from pivl_distill.data.part_maps import PartMap
from pivl_distill.data.vocabulary import ATR18, IGNORE, LIP20
from pivl_distill.parsing.postprocessing import (
    MapPostprocessor,
    drop_small_parts,
    keep_largest_person,
)
from pivl_distill.parsing.settings import MapsSettings

TWO_PEOPLE = np.array(
    [
        [0, 1, 0, 2],
        [0, 5, 0, 5],
        [0, 9, 0, 255],
        [0, 9, 0, 0],
    ],
    np.uint8,
)


def test_only_the_largest_person_is_kept() -> None:
    kept = keep_largest_person(TWO_PEOPLE, LIP20)
    np.testing.assert_array_equal(kept[:, :3], TWO_PEOPLE[:, :3])
    assert kept[:, 3].tolist() == [IGNORE, IGNORE, IGNORE, 0]


def test_single_person_or_empty_map_is_unchanged() -> None:
    one = TWO_PEOPLE[:, :3]
    np.testing.assert_array_equal(keep_largest_person(one, LIP20), one)
    nobody = np.zeros((3, 3), np.uint8)
    np.testing.assert_array_equal(keep_largest_person(nobody, LIP20), nobody)


def test_small_parts_are_ignored_but_never_the_background() -> None:
    dropped = drop_small_parts(TWO_PEOPLE, 2 / 16, LIP20)
    expected = np.where(np.isin(TWO_PEOPLE, [1, 2]), IGNORE, TWO_PEOPLE)
    np.testing.assert_array_equal(dropped, expected)
    assert (drop_small_parts(TWO_PEOPLE, 0.99, LIP20) == 0).sum() == 9


def test_default_settings_change_nothing() -> None:
    cleaning = MapPostprocessor(MapsSettings(kind="maps", vocabulary="lip20"))
    np.testing.assert_array_equal(cleaning.apply(PartMap(TWO_PEOPLE)).labels, TWO_PEOPLE)


def test_maps_are_remapped_before_small_parts_are_dropped() -> None:
    settings = MapsSettings(kind="maps", vocabulary="atr18", to="lip20", min_area=0.3)
    bag, left, right = (ATR18.index(label) for label in ("Bag", "Left-leg", "Hat"))
    labels = np.array([[0, bag, left, left, right]], np.uint8)
    cleaning = MapPostprocessor(settings)
    assert cleaning.vocabulary is LIP20
    leg = LIP20.index("Left-leg")
    assert cleaning.apply(PartMap(labels)).labels.tolist() == [[0, IGNORE, leg, leg, IGNORE]]
