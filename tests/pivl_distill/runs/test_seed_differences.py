"""Differences over seeds, against the formulas."""

from __future__ import annotations

import builtins
import math
import random
import statistics
from typing import Any

import pytest
from scipy.stats import t as student_t

from pivl_distill.errors import PivlError
from pivl_distill.runs.seed_differences import (
    Difference,
    paired_difference,
    spread,
    welch_difference,
)


def scores(seed: int, mean: float, deviation: float, count: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.gauss(mean, deviation) for _ in range(count)]


def naive_welch(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """Mean difference and limits, from the formulas of Welch (1947) and Satterthwaite (1946)."""
    errors = [statistics.variance(values) / len(values) for values in (a, b)]
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(values) - 1) for error, values in zip(errors, (a, b), strict=True)
    )
    half = student_t.ppf(0.975, freedom) * math.sqrt(sum(errors))
    difference = statistics.mean(a) - statistics.mean(b)
    return difference, difference - half, difference + half


@pytest.mark.parametrize(("ours", "theirs"), [(6, 6), (2, 5), (3, 2)])
def test_welchs_interval(ours: int, theirs: int) -> None:
    a, b = scores(0, 80, 1, ours), scores(1, 70, 3, theirs)
    found = welch_difference(a, b)
    assert (found.mean, found.low, found.high) == pytest.approx(naive_welch(a, b))


def test_the_paired_interval_is_that_of_the_differences() -> None:
    shared = scores(0, 0, 5, 6)
    a = [80 + s + e for s, e in zip(shared, scores(1, 0, 0.2, 6), strict=True)]
    b = [79 + s + e for s, e in zip(shared, scores(2, 0, 0.2, 6), strict=True)]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    half = student_t.ppf(0.975, 5) * statistics.stdev(differences) / math.sqrt(6)
    found, welch = paired_difference(a, b), welch_difference(a, b)
    mean = statistics.mean(differences)
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.low > 0 > welch.low  # what the seeds share is no noise of the difference
    assert found.mean == pytest.approx(welch.mean)


def test_one_seed_has_no_interval_and_equal_differences_one_of_width_zero() -> None:
    assert paired_difference([5], [4]) == welch_difference([5], [4]) == Difference(1, None, None)
    assert welch_difference([5], [4, 3]).low is None
    assert str(paired_difference([5, 7], [4, 6])) == "+1.0 [+1.0, +1.0]"
    assert str(welch_difference([5, 5], [4, 4])) == "+1.0 [+1.0, +1.0]"


def test_pairs_need_equally_many_seeds() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        paired_difference([1, 2], [1])


def test_spread() -> None:
    assert spread([]) == ""
    assert spread([3]) == "3.0"
    assert spread([3, 5]) == "4.0 ± 1.4"
    assert spread([3, 5], deviation=False) == "4.0"


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_scipy(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "scipy":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_scipy)
    with pytest.raises(PivlError, match=r"pivl-distill\[report\]"):
        paired_difference([1, 3], [1, 2])
