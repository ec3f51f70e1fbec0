"""The first gallery crops of a query, against a naive ranking."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.data.store import CropStore
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures, score_crops
from pivl_distill.retrieval.top_matches import NO_MATCH, top_matches


def store(pids: np.ndarray, camids: np.ndarray | None) -> CropStore:
    return CropStore(np.zeros((len(pids), 4, 2, 3), np.uint8), None, pids, camids)


def task(cameras: bool, gallery: int = 60) -> tuple[QueryGalleryFeatures, QueryGalleryCrops]:
    rng = np.random.default_rng(3)
    labels = [
        (rng.integers(low, 8, count), rng.integers(0, 3, count) if cameras else None)
        for low, count in ((0, 12), (-1, gallery))
    ]
    features = [rng.standard_normal((len(pids), 8)).astype(np.float32) for pids, _ in labels]
    return QueryGalleryFeatures(*features), QueryGalleryCrops(*(store(*pair) for pair in labels))


@pytest.mark.parametrize("cameras", [True, False])
def test_agrees_with_a_naive_ranking(cameras: bool) -> None:
    features, test = task(cameras)
    found = top_matches(features, test, np.arange(12), 10)
    for query in range(12):
        ranked = []
        for place, vector in enumerate(features.gallery.astype(float)):
            pid = test.gallery.pids[place]
            same = pid == test.query.pids[query]
            if pid == -1 or (
                cameras and same and test.gallery.camids[place] == test.query.camids[query]
            ):
                continue
            ours = features.query[query].astype(float)
            cosine = vector @ ours / np.linalg.norm(vector) / np.linalg.norm(ours)
            ranked.append((-cosine, place))
        assert found[query].tolist() == [place for _, place in sorted(ranked)[:10]]


def test_the_first_hit_is_at_the_rank_that_is_scored() -> None:
    features, test = task(cameras=True)
    scores = score_crops(features, test)
    found = top_matches(features, test, np.arange(12), 60)
    for query in np.flatnonzero(scores.valid):
        hits = test.gallery.pids[found[query]] == test.query.pids[query]
        hits &= found[query] != NO_MATCH
        assert 1 + int(np.flatnonzero(hits)[0]) == scores.first_hit[query]


def test_short_rows_are_padded() -> None:
    features, test = task(cameras=True, gallery=4)
    found = top_matches(features, test, np.array([0, 5]), 6)
    assert found.shape == (2, 6)
    assert (found[:, 4:] == NO_MATCH).all()


def test_equal_crops_keep_the_order_of_the_gallery() -> None:
    features = QueryGalleryFeatures(np.ones((1, 3), np.float32), np.ones((5, 3), np.float32))
    test = QueryGalleryCrops(store(np.array([1]), None), store(np.arange(5), None))
    assert top_matches(features, test, np.array([0]), 5)[0].tolist() == [0, 1, 2, 3, 4]
