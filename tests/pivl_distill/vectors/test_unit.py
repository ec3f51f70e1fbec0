"""Vectors of length one, alone and in rows."""

from __future__ import annotations

import math

import numpy as np

from pivl_distill.vectors.unit import unit


def test_rows_have_length_one_and_zeros_stay_zero() -> None:
    rows = np.float32([[3, 4], [0, 0], [-2, 0]])
    found = unit(rows)
    assert found.dtype == np.float64
    for row, scaled in zip(rows.tolist(), found.tolist(), strict=True):
        length = math.hypot(*row)
        assert scaled == [value / length if length else 0.0 for value in row]
        assert unit(np.float32(row)).tolist() == scaled
    assert rows.tolist() == [[3, 4], [0, 0], [-2, 0]]
