"""Maps before anything learns from them: small parts and bystanders become unknown."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.cleaning import drop_small_parts, keep_largest_person
from pivl_distill.data.vocabulary import IGNORE

U = IGNORE


def test_parts_of_too_few_pixels_are_unknown() -> None:
    values = np.array([[0, 0, 5, 5], [0, 7, 5, U]], np.uint8)
    assert drop_small_parts(values, 0).tolist() == values.tolist()
    assert drop_small_parts(values, 2).tolist() == [[0, 0, 5, 5], [0, U, 5, U]]
    assert drop_small_parts(values, 4).tolist() == [[U] * 4] * 2
    assert drop_small_parts(values, 2).dtype == np.uint8


def test_the_largest_connected_person_is_kept() -> None:
    values = np.array(
        [
            [9, 9, 0, 5, 0],
            [9, 0, 0, 5, 5],
            [0, 0, 0, 6, 6],
            [U, 0, 7, 0, 0],  # at a corner of the person's, so part of it
        ],
        np.uint8,
    )
    kept = keep_largest_person(values, background=0)
    expected = values.copy()
    expected[values == 9] = U
    assert kept.tolist() == expected.tolist()


@pytest.mark.parametrize("value", [0, 4, U])
def test_with_at_most_one_person_nothing_changes(value: int) -> None:
    values = np.full((4, 3), value, np.uint8)
    assert keep_largest_person(values, background=0).tolist() == values.tolist()


def test_unknown_pixels_join_nobody() -> None:
    values = np.array([[3, 3, U, 4]], np.uint8)
    assert keep_largest_person(values, background=0).tolist() == [[3, 3, U, U]]
