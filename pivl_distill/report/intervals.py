"""Confidence intervals of retrieval scores, by bootstrap over queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
_BATCH = 100
"""Resamples per step, which bounds memory."""

EXPLANATION = (
    f"Intervals are {100 * CONFIDENCE:.0f} % percentile intervals of {RESAMPLES:,} bootstrap"
    " samples of the queries. They say how much a score depends on which queries were asked, not"
    " how much it varies between seeds; queries of one person are not independent, so the true"
    " interval is wider."
)


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def bootstrap_mean(values: np.ndarray) -> Interval:
    """Return the interval of the mean of `values` [N], one per query. It is the same every time."""
    from scipy.stats import bootstrap

    if len(values) < 2:
        return Interval(float(values.mean()), float(values.mean()))
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))
