"""Numbers that are not finite are found anywhere in a JSON value."""

from __future__ import annotations

import json

from pivl_distill.storage.finite import find_nonfinite_numbers


def test_numbers_that_are_not_finite_are_named():
    text = '{"a": [0.5, {"b": NaN}], "c": 1e999, "d": "NaN", "e": [true, null, -1]}'
    assert list(find_nonfinite_numbers(json.loads(text))) == ["a.1.b is nan", "c is inf"]
    assert list(find_nonfinite_numbers(float("-inf"), "x")) == ["x is -inf"]
