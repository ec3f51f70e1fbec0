"""Thresholds match a naive count over all pairs and are None if pairs are too few."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.thresholds import (
    FALSE_ACCEPT_RATES,
    MIN_FALSE_ACCEPTS,
    OperatingThreshold,
    operating_thresholds,
)

RATES = (0.1, 0.02)


def people(seed: int, count: int, identities: int, cameras: int = 3):
    """Features around one centre per identity; pids from 0 (distractors), some −1 (junk)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(identities + 1, 8))
    pids = rng.integers(0, identities + 1, count)
    features = centres[pids] + rng.normal(0, 0.8, (count, 8))
    pids[rng.random(count) < 0.1] = -1
    return features.astype(np.float32), pids, rng.integers(0, cameras, count)


def split(seed: int = 0, queries: int = 40, gallery: int = 120):
    q, q_pids, q_cams = people(seed, queries, 6)
    g, g_pids, g_cams = people(seed + 1, gallery, 6)
    known = q_pids > 0
    return q[known], g, q_pids[known], g_pids, q_cams[known], g_cams


def naive_pairs(q, g, q_pids, g_pids, q_cams, g_cams) -> tuple[list[float], list[float]]:
    genuine, impostor = [], []
    for a, pid, camera in zip(q, q_pids, q_cams, strict=True):
        for b, other_pid, other_camera in zip(g, g_pids, g_cams, strict=True):
            if camera == other_camera or other_pid == -1:
                continue
            cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            (genuine if pid == other_pid else impostor).append(cosine)
    return genuine, impostor


def share(values: list[float], threshold: float) -> float:
    return sum(value >= threshold for value in values) / len(values)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_thresholds_match_a_naive_count(chunk):
    data = split()
    genuine, impostor = naive_pairs(*data)
    found = operating_thresholds(*data, rates=RATES, chunk=chunk)
    assert [threshold.far for threshold in found] == list(RATES)
    for threshold in found:
        assert threshold.impostor_pairs == len(impostor)
        assert threshold.genuine_pairs == len(genuine)
        cosine = threshold.cosine
        assert cosine is not None
        # Sums of float32 in another order: 1e-6 apart.
        assert share(impostor, cosine + 1e-6) <= threshold.far
        allowed = int(threshold.far * len(impostor))
        assert cosine == pytest.approx(sorted(impostor)[::-1][allowed], abs=1e-6)
        assert threshold.tar == pytest.approx(share(genuine, cosine), abs=2 / len(genuine))


def test_lower_rate_has_higher_threshold_and_fewer_true_accepts():
    loose, strict = operating_thresholds(*split(), rates=RATES)
    assert loose.cosine < strict.cosine
    assert loose.tar > strict.tar


def test_without_cameras_all_pairs_count():
    q, g, q_pids, g_pids, *_ = split()
    (threshold,) = operating_thresholds(q, g, q_pids, g_pids, None, None, rates=(0.1,))
    assert threshold.impostor_pairs + threshold.genuine_pairs == len(q) * sum(g_pids != -1)


def test_tied_impostors_are_accepted_together_or_not_at_all():
    """500 impostor pairs of cosine 1: thresholds of at most 1 have a false-accept rate of 100 %."""
    query, gallery = np.ones((10, 2)), np.ones((51, 2))
    gallery_pids = np.array([1] + [2] * 50)
    (threshold,) = operating_thresholds(
        query, gallery, np.ones(10, int), gallery_pids, None, None, rates=(0.1,)
    )
    assert threshold.cosine == pytest.approx(1)
    assert threshold.tar == 0


def test_rate_with_too_few_impostors_is_none():
    data = split()
    pairs = len(naive_pairs(*data)[1])
    supported, not_supported = (count / pairs for count in (MIN_FALSE_ACCEPTS + 0.5, 29.5))
    measured, withheld = operating_thresholds(*data, rates=(supported, not_supported))
    assert measured.cosine is not None
    genuine = measured.genuine_pairs
    assert withheld == OperatingThreshold(not_supported, None, None, None, None, pairs, genuine)


def test_interval_uses_identities_as_trials():
    """Checked against Wilson's interval as the roots of its quadratic equation."""
    data = split()
    identities = len({pid for pid in data[2] if pid in set(data[3])})
    for threshold in operating_thresholds(*data, rates=RATES):
        assert threshold.tar_low < threshold.tar < threshold.tar_high
        for bound in (threshold.tar_low, threshold.tar_high):
            deviation = (threshold.tar - bound) ** 2
            assert deviation == pytest.approx(1.959964**2 * bound * (1 - bound) / identities)


def test_interval_is_not_a_point_if_all_pairs_are_accepted():
    """20 orthogonal people with one crop each: a perfect score, from only 20 identities."""
    features, pids = np.eye(20), np.arange(1, 21)
    (threshold,) = operating_thresholds(features, features, pids, pids, None, None, rates=(0.1,))
    assert threshold.tar == 1
    assert threshold.tar_high == 1
    assert threshold.tar_low == pytest.approx(20 / (20 + 1.959964**2))


def test_default_rates_are_those_of_the_manifest():
    assert FALSE_ACCEPT_RATES == (1e-2, 1e-3, 1e-4)
    assert len(operating_thresholds(*split())) == 3


def test_no_genuine_pair_or_non_finite_features_raise():
    q, g, q_pids, g_pids, q_cams, g_cams = split()
    with pytest.raises(PivlError, match="under two cameras"):
        operating_thresholds(q, g, q_pids, g_pids, q_cams * 0, g_cams * 0)
    q[3] = np.nan
    with pytest.raises(PivlError, match="query features are not finite"):
        operating_thresholds(q, g, q_pids, g_pids, q_cams, g_cams)
