"""Counts of cosines and error rates, against naive ones."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.store import CropStore
from pivl_distill.retrieval import thresholds
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.score_distribution import BINS, score_distribution


def task(cameras: bool, queries: int = 40, gallery: int = 300):
    """Features of people with noise, and their labels."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((12, 16))
    sides = []
    for low, count in ((0, queries), (-1, gallery)):
        pids = rng.integers(low, 12, count)
        vectors = centres[pids] + 0.8 * rng.standard_normal((count, 16))
        camids = rng.integers(0, 3, count) if cameras else None
        sides.append((vectors.astype(np.float32), pids, camids))
    stores = [CropStore(np.zeros((len(p), 2, 1, 3), np.uint8), None, p, c) for _, p, c in sides]
    return QueryGalleryFeatures(sides[0][0], sides[1][0]), QueryGalleryCrops(*stores)


def naive(features, crops) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of genuine and of impostor pairs."""
    genuine, impostor = [], []
    for q, ours in enumerate(features.query.astype(float)):
        for g, theirs in enumerate(features.gallery.astype(float)):
            cameras = crops.query.camids is not None
            if crops.gallery.pids[g] == -1 or (
                cameras and crops.query.camids[q] == crops.gallery.camids[g]
            ):
                continue
            cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
            same = crops.query.pids[q] == crops.gallery.pids[g]
            (genuine if same else impostor).append(cosine)
    return np.array(genuine), np.array(impostor)


@pytest.mark.parametrize("cameras", [True, False])
def test_counts_and_rates_agree_with_naive_ones(cameras: bool) -> None:
    features, crops = task(cameras)
    found, (genuine, impostor) = score_distribution(features, crops), naive(features, crops)
    assert (found.genuine.sum(), found.impostor.sum()) == (len(genuine), len(impostor))
    for place in range(0, BINS, 97):
        edge = found.edges[place]
        assert found.false_accept_rates[place] == pytest.approx((impostor >= edge).mean())
        assert found.false_reject_rates[place] == pytest.approx((genuine < edge).mean())
    middles, shares, _ = found.shares(50)
    expected = np.histogram(genuine, bins=50, range=(-1, 1))[0] / len(genuine)
    assert shares == pytest.approx(expected)
    assert middles[0] == pytest.approx(-0.98)


def test_rates_agree_with_the_operating_thresholds(monkeypatch) -> None:
    monkeypatch.setattr(thresholds, "MIN_FALSE_ACCEPTS", 1)
    features, crops = task(cameras=True)
    found = score_distribution(features, crops)
    (point,) = thresholds.operating_thresholds(
        *(features.query, features.gallery, crops.query.pids, crops.gallery.pids),
        *(crops.query.camids, crops.gallery.camids),
        rates=(0.05,),
    )
    place = int(np.searchsorted(found.edges, point.cosine))
    assert 1 - found.false_reject_rates[place] == pytest.approx(point.tar, abs=0.02)
    assert found.false_accept_rates[place] == pytest.approx(0.05, abs=0.01)


def test_equal_error_rate_of_a_perfect_and_of_a_useless_network() -> None:
    features, crops = task(cameras=False)
    people = np.eye(13, dtype=np.float32)
    perfect = QueryGalleryFeatures(people[crops.query.pids], people[crops.gallery.pids])
    assert score_distribution(perfect, crops).equal_error_rate == 0
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(side.shape).astype(np.float32) for side in vars(features).values()]
    useless = score_distribution(QueryGalleryFeatures(*noise), crops)
    assert useless.equal_error_rate == pytest.approx(0.5, abs=0.05)
