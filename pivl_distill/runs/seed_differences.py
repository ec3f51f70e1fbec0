"""Differences between two ways to train, over seeds, with 95 % intervals.

Runs of one seed share initial weights and data order, so that the difference within a seed varies
less than the results themselves: if both ways were trained with the same seeds, the paired interval
is the sharper one. Welch's interval is for different seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pivl_distill.errors import PivlError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Difference of two means with its interval; both in the unit of the values."""

    mean: float
    low: float | None
    high: float | None
    """Limits of the 95 % interval; None for fewer than two seeds."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.1f}"
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def welch_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return mean(ours) − mean(theirs) with its interval for unequal variances (Welch 1947)."""
    mean = statistics.mean(ours) - statistics.mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Difference(mean, None, None)
    if len({*ours}) == len({*theirs}) == 1:  # no variance, so no degrees of freedom
        return Difference(mean, mean, mean)
    interval = _stats().ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Return the mean of ours − theirs, seed by seed, with its interval (Student 1908).

    Both have the values of the same seeds in the same order.
    """
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return Difference(mean, None, None)
    if len({*differences}) == 1:
        return Difference(mean, mean, mean)
    interval = _stats().ttest_rel(ours, theirs).confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.low), float(interval.high))


def spread(values: Sequence[float], *, deviation: bool = True) -> str:
    """Return "mean ± standard deviation", the mean alone for one value, or "" for none."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if deviation and len(values) > 1 else mean


def _stats() -> Any:
    """scipy.stats. Raises PivlError if SciPy is not installed."""
    try:
        from scipy import stats
    except ImportError as error:
        raise PivlError(
            "Intervals over seeds need SciPy: pip install 'pivl-distill[report]'."
        ) from error
    return stats
