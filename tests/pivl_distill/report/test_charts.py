"""Charts stay small, and series differ by more than colour."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pivl_distill.report.charts import MAX_POINTS, curves, style, thinned


@pytest.mark.parametrize("count", [1, 2, MAX_POINTS, MAX_POINTS + 1, 100_000])
def test_thinned_curves_keep_both_ends(count: int) -> None:
    kept = thinned(count)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) == min(count, MAX_POINTS)


def test_a_long_curve_costs_no_more_than_a_short_one() -> None:
    x = np.arange(50_000)
    chart = curves({"a": (x, x**2)}, "x", "y")
    assert len(chart.to_json()) < 20_000


def test_series_differ_without_colour() -> None:
    looks = [(style(n)["line"]["dash"], style(n)["marker"]["symbol"]) for n in range(8)]
    assert len(set(looks)) == len(looks)


def test_values_of_a_curve_are_those_given() -> None:
    chart = json.loads(curves({"a": ([1, 2], [0.25, 0.5])}, "x", "y").to_json())
    assert chart["data"][0]["name"] == "a"
    assert len(chart["data"]) == 1


def test_an_empty_series_keeps_the_colours_of_the_others() -> None:
    x = ([1, 2], [3, 4])
    with_gap = curves({"a": ([], []), "b": x}, "x", "y")
    whole = curves({"a": x, "b": x}, "x", "y")
    (drawn,) = with_gap.data
    assert drawn.line.color == whole.data[1].line.color
    assert not drawn.showlegend
