"""Metrics against golden values, a naive implementation, and each rule of the protocol."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pivl_distill.errors import PivlError
from pivl_distill.retrieval import RetrievalResult, evaluate, evaluate_distances
from pivl_distill.retrieval.reid_metrics import score_queries

GOLDEN = Path(__file__).parents[2] / "golden" / "retrieval.npz"


def random_task(seed: int, queries: int = 30, gallery: int = 200) -> list[np.ndarray]:
    """query, gallery, query_pids, gallery_pids, query_camids, gallery_camids."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((queries, 16)).astype(np.float32),
        rng.standard_normal((gallery, 16)).astype(np.float32),
        rng.integers(1, 12, queries),
        rng.integers(-1, 10, gallery),
        rng.integers(0, 3, queries),
        rng.integers(0, 3, gallery),
    ]


def naive(task: list[np.ndarray], max_rank: int = 50) -> tuple[float, np.ndarray, float, int]:
    """Return mAP, CMC, mINP and the number of valid queries, by sorting each gallery."""
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = task
    query = query / np.linalg.norm(query.astype(float), axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery.astype(float), axis=1, keepdims=True)
    precisions, curves, penalties = [], [], []
    for feature, pid, camid in zip(query, query_pids, query_camids, strict=True):
        distance = ((gallery - feature) ** 2).sum(axis=1)
        ranked, found_at = 0, []
        for index in sorted(range(len(gallery)), key=lambda index: (distance[index], index)):
            same = gallery_pids[index] == pid
            if gallery_pids[index] == -1 or (same and gallery_camids[index] == camid):
                continue
            ranked += 1
            if same:
                found_at.append(ranked)
        if found_at:
            hits = enumerate(found_at, start=1)
            precisions.append(np.mean([number / rank for number, rank in hits]))
            curves.append([float(found_at[0] <= k) for k in range(1, max_rank + 1)])
            penalties.append(len(found_at) / found_at[-1])
    mean_curve = np.mean(curves, axis=0)
    return float(np.mean(precisions)), mean_curve, float(np.mean(penalties)), len(precisions)


def assert_same(result: RetrievalResult, other: RetrievalResult) -> None:
    assert result.mAP == pytest.approx(other.mAP, abs=1e-12)
    assert result.mINP == pytest.approx(other.mINP, abs=1e-12)
    np.testing.assert_allclose(result.cmc, other.cmc, atol=1e-12)


def test_reproduces_the_reference_implementations() -> None:
    golden = np.load(GOLDEN, allow_pickle=False)
    result = evaluate(
        *(golden[key] for key in ("qf", "gf", "q_pids", "g_pids", "q_cams", "g_cams"))
    )
    np.testing.assert_allclose(result.cmc, golden["cmc"], atol=1e-6)
    assert result.mAP == pytest.approx(float(golden["mAP"]), abs=1e-6)
    assert result.mINP == pytest.approx(float(golden["mINP"]), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_naive_implementation(seed: int) -> None:
    task = random_task(seed)
    mean_precision, curve, penalty, valid = naive(task)
    result = evaluate(*task)
    assert result.mAP == pytest.approx(mean_precision, abs=1e-12)
    assert result.mINP == pytest.approx(penalty, abs=1e-12)
    np.testing.assert_allclose(result.cmc, curve, atol=1e-12)
    assert (result.valid_queries, result.skipped_queries) == (valid, 30 - valid)


def test_scores_of_queries_have_the_means_of_the_result() -> None:
    task = random_task(0)
    scores, result = score_queries(*task), evaluate(*task)
    assert scores.result().summary() == result.summary()
    for query in np.flatnonzero(scores.valid):
        alone = [task[0][[query]], task[1], task[2][[query]], task[3], task[4][[query]], task[5]]
        precision, curve, penalty, _ = naive(alone, max_rank=200)
        assert scores.average_precision[query] == pytest.approx(precision, abs=1e-12)
        assert scores.first_hit[query] == 1 + int((curve == 0).sum())
        assert scores.inverse_penalty[query] == pytest.approx(penalty, abs=1e-12)
    assert (scores.average_precision[~scores.valid] == 0).all()


def test_one_query_by_hand() -> None:
    angles = np.radians([5, 10, 20, 30, 40])  # hit, junk, miss, hit, distractor
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pids, camids = np.array([7, 7, 8, 7, 0]), np.array([1, 0, 0, 2, 1])
    query = np.array([[3.0, 0.0]])
    result = evaluate(query, gallery, np.array([7]), pids, np.array([0]), camids, max_rank=3)
    assert result.mAP == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert result.mINP == pytest.approx(2 / 3)
    assert result.cmc.tolist() == [1, 1, 1]


def test_rank_reads_the_cmc_curve() -> None:
    result = evaluate(*random_task(0))
    assert result.rank(1) == result.cmc[0]
    assert result.rank(5) == result.cmc[4] >= result.rank(1)


def test_order_of_crops_does_not_matter_without_ties() -> None:
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = random_task(1)
    rng = np.random.default_rng(0)
    q, g = rng.permutation(len(query)), rng.permutation(len(gallery))
    shuffled = evaluate(
        query[q], gallery[g], query_pids[q], gallery_pids[g], query_camids[q], gallery_camids[g]
    )
    assert_same(shuffled, evaluate(*random_task(1)))


def test_chunks_and_feature_lengths_do_not_matter() -> None:
    query, gallery, *labels = random_task(2)
    whole = evaluate(query, gallery, *labels)
    assert_same(evaluate(query, gallery, *labels, memory_bytes=4 * 200 * 7), whole)
    assert_same(evaluate(3 * query, gallery * np.arange(1, 201)[:, None], *labels), whole)


@pytest.mark.parametrize("hit", [0, 1, 2])
def test_ties_keep_the_order_of_the_gallery(hit: int) -> None:
    gallery = np.array([[0.6, 0.8]] * 3 + [[0.0, 1.0]])
    pids = np.where(np.arange(4) == hit, 5, 6)
    one, many = np.array([5]), np.ones(4, int)
    result = evaluate(np.array([[1.0, 0.0]]), gallery, one, pids, np.array([0]), many)
    assert result.mAP == pytest.approx(1 / (hit + 1))


def test_a_collapsed_network_is_ranked_by_gallery_order() -> None:
    # Without a tolerance, a matrix product ranks copies of one vector by their position.
    rng = np.random.default_rng(0)
    gallery = np.repeat(rng.standard_normal((1, 512)), 1003, axis=0)
    pids = np.repeat([2, 1], [1000, 3])
    query = rng.standard_normal((61, 512))
    one, zero = np.ones(61, int), np.zeros(61, int)
    result = evaluate(query, gallery, one, pids, zero, np.ones(1003, int))
    assert result.mAP == pytest.approx(np.mean([1 / 1001, 2 / 1002, 3 / 1003]))


@pytest.mark.parametrize("extra_pid", [-1, 0])
def test_junk_is_dropped_and_distractors_count(extra_pid: int) -> None:
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = random_task(3)
    # A copy of each query ranks first, labelled as junk or as a distractor.
    result = evaluate(
        query,
        np.concatenate([gallery, query]),
        query_pids,
        np.concatenate([gallery_pids, np.full(len(query), extra_pid)]),
        query_camids,
        np.concatenate([gallery_camids, query_camids + 1]),
    )
    base = evaluate(*random_task(3))
    if extra_pid == -1:
        assert_same(result, base)
    else:
        assert result.rank(1) == 0
        assert result.mAP < base.mAP


def test_cmc_is_constant_beyond_the_gallery() -> None:
    task = random_task(4, gallery=30)
    result = evaluate(*task, max_rank=100)
    assert result.cmc.shape == (100,)
    assert (result.cmc[30:] == 1).all()


def test_single_camera_raises() -> None:
    query, gallery, query_pids, gallery_pids, _, _ = random_task(0)
    cameras = np.zeros(30, int), np.zeros(200, int)
    with pytest.raises(PivlError, match="camera"):
        evaluate(query, gallery, query_pids, gallery_pids, *cameras)


@pytest.mark.parametrize("known", [None, np.zeros(200, int)])
def test_unknown_cameras_disable_the_camera_rule(known) -> None:
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = random_task(0)
    apart = np.zeros(30, int), np.ones(200, int)
    expected, *_, valid = naive((query, gallery, query_pids, gallery_pids, *apart))
    result = evaluate(query, gallery, query_pids, gallery_pids, None, known)
    assert result.mAP == pytest.approx(expected)
    assert result.valid_queries == valid
    assert result.summary()["camera_rule"] is False
    ruled = evaluate(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids)
    assert ruled.summary()["camera_rule"] is True


def test_unknown_cameras_without_a_hit_raise() -> None:
    query, gallery, query_pids, _, _, _ = random_task(0)
    with pytest.raises(PivlError, match="person in the gallery, so there is nothing"):
        evaluate(query, gallery, query_pids, np.full(200, 999), None, None)


@pytest.mark.parametrize(("broken", "name"), [(0, "query"), (1, "gallery")])
def test_features_must_be_finite(broken: int, name: str) -> None:
    task = random_task(0)
    kept = int(np.flatnonzero(task[3] != -1)[2])
    task[broken][kept if broken else 3, 5] = np.nan
    with pytest.raises(PivlError, match=f"{name} features are not finite"):
        evaluate(*task)


def test_zero_features_are_accepted() -> None:
    task = random_task(0)
    task[1][:] = 0
    assert 0 < evaluate(*task).mAP < 1


@pytest.mark.parametrize("memory_bytes", [1, 10_000, 2**30])
def test_memory_float_type_and_tensors_do_not_matter(memory_bytes: int) -> None:
    query, gallery, *labels = random_task(5)
    whole = evaluate(query, gallery, *labels)
    for kind in (np.float32, np.float64):
        arrays = query.astype(kind), gallery.astype(kind)
        for given in (arrays, tuple(map(torch.from_numpy, arrays))):
            assert_same(evaluate(*given, *labels, memory_bytes=memory_bytes), whole)


def test_duplicates_rank_in_gallery_order() -> None:
    query = np.array([[1.0, 0.0]])
    gallery = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])
    pids = np.array([2, 1, 2, 1])
    result = evaluate(query, gallery, np.array([1]), pids, None, None)
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.mINP == pytest.approx(2 / 4)


def test_queries_with_only_junk_are_skipped() -> None:
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = random_task(6)
    base = evaluate(*random_task(6))
    alone = gallery_pids == query_pids[0]
    gallery_camids[alone] = query_camids[query_pids == query_pids[0]][0]
    query_camids[query_pids == query_pids[0]] = gallery_camids[alone][0]
    result = evaluate(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids)
    assert result.skipped_queries == base.skipped_queries + (query_pids == query_pids[0]).sum()


@pytest.mark.parametrize("blocks", [False, True])
def test_distances_score_like_features(blocks: bool) -> None:
    task = random_task(7)
    query, gallery, *labels = task
    query, gallery = (raw / np.linalg.norm(raw, axis=1, keepdims=True) for raw in (query, gallery))
    distances = 1 - query.astype(float) @ gallery.T
    given = iter(np.array_split(distances, 4)) if blocks else distances
    assert_same(evaluate_distances(given, *labels), evaluate(*task))


def test_equal_distances_keep_the_order_of_the_gallery() -> None:
    pids = np.array([6, 5, 6])
    result = evaluate_distances(np.zeros((1, 3)), np.array([5]), pids, None, None)
    assert result.mAP == pytest.approx(1 / 2)


def test_distances_must_be_finite() -> None:
    distances = np.zeros((2, 3))
    distances[1, 0] = np.nan
    with pytest.raises(PivlError, match="distances of query 1 are not finite"):
        evaluate_distances(distances, np.zeros(2, int), np.zeros(3, int), None, None)
