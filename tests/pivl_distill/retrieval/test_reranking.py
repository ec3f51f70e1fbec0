"""Re-ranking against the dense algorithm of the paper, written with Python sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pivl_distill.errors import PivlError
from pivl_distill.retrieval import evaluate_distances, reranking
from pivl_distill.retrieval.reranking import rerank, rerank_rows


def dense(
    query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, lambda_value: float
) -> np.ndarray:
    """Return distances [Q, G] by N × N matrices and Python sets."""
    features = np.concatenate([query, gallery]).astype(float)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    original = (2 - 2 * features @ features.T).round(12)
    nearest = np.argsort(original, axis=1, kind="stable")
    original /= original.max(axis=1, keepdims=True)
    count = len(features)

    def reciprocal(crop: int, k: int) -> set[int]:
        return {int(other) for other in nearest[crop, : k + 1] if crop in nearest[other, : k + 1]}

    encoding = np.zeros((count, count))
    for crop in range(count):
        neighbours = reciprocal(crop, k1)
        expanded = set(neighbours)
        for other in neighbours:
            theirs = reciprocal(other, int(np.around(k1 / 2)))
            if len(theirs & neighbours) > 2 / 3 * len(theirs):
                expanded |= theirs
        members = sorted(expanded)
        encoding[crop, members] = np.exp(-original[crop, members])
        encoding[crop] /= encoding[crop].sum() or 1
    if k2 > 1:
        encoding = np.stack([encoding[nearest[crop, :k2]].mean(axis=0) for crop in range(count)])
    ours, theirs = encoding[: len(query), None], encoding[None, len(query) :]
    jaccard = 1 - np.minimum(ours, theirs).sum(axis=2) / np.maximum(ours, theirs).sum(axis=2)
    return (1 - lambda_value) * jaccard + lambda_value * original[: len(query), len(query) :]


def people(seed: int, queries: int, gallery: int, identities: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((identities, 16))
    return tuple(
        (centres[rng.integers(0, identities, n)] + 0.7 * rng.standard_normal((n, 16))).astype("f4")
        for n in (queries, gallery)
    )


@pytest.mark.parametrize(("k1", "k2", "share"), [(20, 6, 0.3), (7, 1, 0.5), (5, 9, 0.0), (3, 2, 1)])
@pytest.mark.parametrize("size", [(30, 150, 12), (5, 12, 3), (20, 80, 1)])
def test_distances_match_the_dense_algorithm(size, k1, k2, share) -> None:
    query, gallery = people(k1, *size)
    result = rerank(query, gallery, k1, k2, share)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, dense(query, gallery, k1, k2, share), atol=2e-6)


def test_duplicates_in_the_gallery_keep_their_order() -> None:
    query, gallery = people(0, 20, 100, 10)
    gallery[30:60] = gallery[:30]
    expected = dense(query, gallery, 7, 3, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, 7, 3, 0.3), expected, atol=2e-6)


def test_feature_length_memory_and_tensors_do_not_matter() -> None:
    query, gallery = people(1, 20, 100, 10)
    expected = rerank(query, gallery)
    np.testing.assert_allclose(rerank(3 * query, 0.1 * gallery), expected, atol=1e-6)
    np.testing.assert_allclose(rerank(query, gallery, memory_bytes=1), expected, atol=1e-6)
    tensors = rerank(torch.from_numpy(query), torch.from_numpy(gallery))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_array_equal(tensors, expected)


@pytest.mark.parametrize("at_a_time", [1, 50])
def test_number_of_entry_pairs_per_step_does_not_matter(at_a_time: int, monkeypatch) -> None:
    query, gallery = people(2, 8, 40, 4)
    expected = rerank(query, gallery)
    monkeypatch.setattr(reranking, "_ENTRY_PAIRS", at_a_time)
    np.testing.assert_allclose(rerank(query, gallery), expected, atol=1e-6)


def test_chunks_are_consecutive_rows() -> None:
    query, gallery = people(3, 20, 100, 10)
    chunks = list(rerank_rows(query, gallery, memory_bytes=7 * 100 * 4))
    assert [len(chunk) for chunk in chunks] == [7, 7, 6]
    np.testing.assert_allclose(torch.cat(chunks), rerank(query, gallery), atol=1e-6)


def test_common_neighbours_rank_a_hard_match_first() -> None:
    # Views of one person from 0° to 40°; an impostor at −30° is nearer than the last view.
    angles = np.radians([0, 10, 20, 30, 40, -30, -31, -32, -33, -34])
    views = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([1]), np.repeat([1, 2], [4, 5]), None, None
    plain = evaluate_distances(2 - 2 * views[:1] @ views[1:].T, *labels)
    better = evaluate_distances(rerank(views[:1], views[1:], k1=4, k2=2), *labels)
    assert plain.mAP < better.mAP == 1


def test_a_collapsed_network_has_finite_distances() -> None:
    same = np.ones((30, 8), np.float32)
    assert np.isfinite(rerank(same[:5], same[5:])).all()


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"lambda_value": 1.5}])
def test_parameters_out_of_range_raise(wrong: dict[str, float]) -> None:
    with pytest.raises(PivlError, match="Re-ranking needs k1 ≥ 1, k2 ≥ 1"):
        rerank(*people(0, 3, 5, 2), **wrong)


def test_features_must_be_finite() -> None:
    query, gallery = people(0, 3, 5, 2)
    gallery[1, 1] = np.inf
    with pytest.raises(PivlError, match="query and gallery features are not finite"):
        rerank(query, gallery)
