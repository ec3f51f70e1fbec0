"""Bootstrap intervals, against a naive bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.report.intervals import RESAMPLES, bootstrap_mean

VALUES = np.random.default_rng(1).beta(5, 1, 300)


def test_agrees_with_a_naive_bootstrap() -> None:
    rng = np.random.default_rng(7)
    means = [rng.choice(VALUES, len(VALUES)).mean() for _ in range(RESAMPLES)]
    assert bootstrap_mean(VALUES) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=2e-3)


def test_contains_the_mean_and_is_the_same_every_time() -> None:
    interval = bootstrap_mean(VALUES)
    assert interval.low < VALUES.mean() < interval.high
    assert bootstrap_mean(VALUES) == interval


def test_more_queries_give_a_narrower_interval() -> None:
    few, many = bootstrap_mean(VALUES), bootstrap_mean(np.tile(VALUES, 16))
    assert (many.high - many.low) == pytest.approx((few.high - few.low) / 4, rel=0.15)


@pytest.mark.parametrize("values", [[0.5], [1.0, 1.0, 1.0]])
def test_without_spread_both_ends_are_the_mean(values: list[float]) -> None:
    assert bootstrap_mean(np.array(values)) == (values[0], values[0])
