"""Numbers in JSON: only numbers, within bounds."""

from __future__ import annotations

import pytest

from pivl_distill.storage.numbers import finite_number, three_numbers, whole_number


def test_numbers_are_returned():
    assert whole_number(3, "dim", 4) == 3
    assert whole_number(0, "cameras", 4, least=0) == 0
    assert finite_number(3, "far") == 3.0
    assert three_numbers([0, 0.5, 1], "mean") == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("value", [0, 5, True, 3.0, "3", None, [3]])
def test_other_values_are_no_whole_numbers(value):
    with pytest.raises(ValueError, match=r"dim is .*, not a whole number of 1 to 4"):
        whole_number(value, "dim", 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "0.5", None, [1]])
def test_other_values_are_no_finite_numbers(value):
    with pytest.raises(ValueError, match=r"far is .*, not a finite number"):
        finite_number(value, "far")
    with pytest.raises(ValueError, match="not a finite number"):
        three_numbers([0.5, 0.5, value], "mean")


@pytest.mark.parametrize("values", [None, "abc", [1, 2], [1, 2, 3, 4], {}])
def test_other_values_are_no_three_numbers(values):
    with pytest.raises(ValueError, match=r"mean is .*, not three finite numbers"):
        three_numbers(values, "mean")
