"""Start, warm-up, milestones and end of each learning-rate schedule."""

from __future__ import annotations

import pytest

from pivl_distill.training.lr_schedules import (
    cosine_per_epoch,
    floored_cosine,
    multistep,
    smooth_cosine,
)


def test_smooth_cosine_ends_at_its_minimum_and_floored_cosine_stays_at_it():
    assert smooth_cosine(0, 10, 1.0, 0.1, 0, 0.0) == 1.0
    assert smooth_cosine(5, 10, 1.0, 0.1, 0, 0.0) == pytest.approx(0.55)
    assert smooth_cosine(10, 10, 1.0, 0.1, 0, 0.0) == pytest.approx(0.1)
    assert floored_cosine(5, 10, 1.0, 0.1, 0, 0.0) == pytest.approx(0.5)
    assert floored_cosine(9, 10, 1.0, 0.1, 0, 0.0) == 0.1


def test_warm_up_starts_near_zero():
    for schedule in (smooth_cosine, floored_cosine):
        first, full = schedule(0, 1000, 1.0, 0.0, 2, 0.02), schedule(2, 1000, 1.0, 0.0, 2, 0.02)
        assert first == pytest.approx(0.01)
        assert full == pytest.approx(1.0, abs=1e-3)


def test_cosine_per_epoch_does_not_start_when_the_warm_up_ends():
    rates = [cosine_per_epoch(epoch, 10, 1.0, 0.0, 2, 0.2) for epoch in range(1, 11)]
    assert rates[0] == pytest.approx(0.6)
    assert rates[4] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.0)


def test_multistep_decays_at_the_milestones():
    rates = [multistep(epoch, 1.0, (4, 6), 0.1, 2, 0.5) for epoch in range(1, 8)]
    assert rates == pytest.approx([0.75, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert multistep(1, 1.0, (), 0.1, 0, 0.5) == 1.0
