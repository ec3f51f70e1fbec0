"""Ranks against a stable float64 argsort: ties, near ties, inaccurate products, collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pivl_distill.retrieval import hit_ranks as module
from pivl_distill.retrieval import similarity_counts
from pivl_distill.retrieval.hit_ranks import hit_ranks, sorted_hit_ranks
from pivl_distill.retrieval.matches import Matches

MEMORY_BYTES = 2**16


def ranked(query, gallery, labels, memory_bytes: int = MEMORY_BYTES) -> dict[int, list[int]]:
    """Return the ranks of the hits of each query that has any."""
    found = {}
    for queries, ranks in hit_ranks(query, gallery, Matches(*labels), memory_bytes):
        for number, row in zip(queries.tolist(), ranks, strict=True):
            assert number not in found
            found[number] = row[row > 0].tolist()
            assert not row[len(found[number]) :].any()
    return found


def by_argsort(query, gallery, labels) -> dict[int, list[int]]:
    """The definition: a stable sort of float64 cosines, to 12 decimals, without the junk."""
    query_pids, gallery_pids, query_camids, gallery_camids = labels
    query = query / np.linalg.norm(query.astype(float), axis=1, keepdims=True)
    gallery = gallery / np.linalg.norm(gallery.astype(float), axis=1, keepdims=True)
    found = {}
    for number, feature in enumerate(query):
        # Pair by pair: a matrix product may differ between copies of one vector.
        cosine = np.array([np.dot(feature, other) for other in gallery]).round(12)
        same = gallery_pids == query_pids[number]
        junk = same & (gallery_camids == query_camids[number])
        order = np.argsort(-cosine, kind="stable")
        order = order[~junk[order]]
        if (hits := np.flatnonzero(same[order]) + 1).size:
            found[number] = hits.tolist()
    return found


def task(seed: int, features: int = 24, queries: int = 40, gallery: int = 500):
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((queries, features)).astype(np.float32)
    crops = rng.standard_normal((gallery, features)).astype(np.float32)
    sizes = (queries, gallery, queries, gallery)
    labels = [rng.integers(0, most, n) for most, n in zip((9, 8, 3, 3), sizes, strict=True)]
    return query, crops, labels


@pytest.mark.parametrize("seed", range(3))
def test_ranks_match_a_stable_sort(seed: int) -> None:
    query, gallery, labels = task(seed)
    assert ranked(query, gallery, labels) == by_argsort(query, gallery, labels)


@pytest.mark.parametrize("memory_bytes", [1, 5000, 2**30])
def test_ranks_do_not_depend_on_memory_or_query_order(memory_bytes: int) -> None:
    query, gallery, labels = task(3)
    expected = ranked(query, gallery, labels)
    assert ranked(query, gallery, labels, memory_bytes) == expected
    order = np.random.default_rng(0).permutation(len(query))
    shuffled = [labels[0][order], labels[1], labels[2][order], labels[3]]
    found = ranked(query[order], gallery, shuffled, memory_bytes)
    assert {int(order[number]): ranks for number, ranks in found.items()} == expected


def test_float64_decides_float32_ties() -> None:
    # Steps of 1e-9 in the cosine: all equal in float32, where they are near 1.
    angle = np.arccos(1 - 1e-9 * np.arange(1, 201))
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    order = np.random.default_rng(0).permutation(200)
    pids = np.where(np.arange(200) % 10 == 4, 1, 2)
    one, zeros = np.ones(1, int), np.zeros(200, int)
    found = ranked(np.array([[2.0, 0.0]]), gallery[order], [one, pids[order], one, zeros])
    assert found == {0: [5 + 10 * number for number in range(20)]}


@pytest.mark.parametrize("cosine", [0.001, 0.3])
def test_single_hit_of_low_similarity_has_its_float64_rank(cosine: float) -> None:
    """The float32 error near 0 is as large as elsewhere, which a single small hit does not show."""
    wrong, features = [], 1280
    for seed in range(20):
        rng = np.random.default_rng(seed)
        query = rng.standard_normal(features)
        query /= np.linalg.norm(query)
        across = rng.standard_normal((1000, features))
        across -= (across @ query)[:, None] * query
        across /= np.linalg.norm(across, axis=1, keepdims=True)
        near = cosine + rng.uniform(-3e-8, 3e-8, 1000)[:, None]
        gallery = (near * query + np.sqrt(1 - near**2) * across).astype(np.float32)
        pids = np.where(np.arange(1000) == 500, 1, 2)
        labels = [np.ones(1, int), pids, np.zeros(1, int), np.ones(1000, int)]
        query = query[None].astype(np.float32)
        if ranked(query, gallery, labels) != by_argsort(query, gallery, labels):
            wrong.append(seed)
    assert not wrong


def test_duplicates_keep_the_order_of_the_gallery() -> None:
    query, gallery, labels = task(4, queries=10, gallery=60)
    copies = np.random.default_rng(1).integers(0, 60, 300)
    lengths = np.random.default_rng(2).uniform(0.5, 2, (300, 1)).astype(np.float64)
    labels[1], labels[3] = labels[1][copies] % 5, labels[3][copies]
    gallery = gallery[copies] * lengths
    assert ranked(query, gallery, labels) == by_argsort(query, gallery, labels)


@pytest.mark.parametrize("most", [0, 3])
def test_rows_with_too_many_ties_are_sorted(most: int, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_TIES", most)
    query, gallery, labels = task(5)
    gallery[100:400] = gallery[:300]
    assert ranked(query, gallery, labels) == by_argsort(query, gallery, labels)


def test_a_collapsed_network_is_ranked_by_gallery_order() -> None:
    query, gallery, labels = task(6, gallery=700)
    query[:], gallery[:] = query[0], query[0]
    assert ranked(query, gallery, labels) == by_argsort(query, gallery, labels)


@pytest.mark.parametrize("error", [1e-6, 1e-3])
def test_reduced_precision_products_do_not_change_ranks(error: float, monkeypatch) -> None:
    query, gallery, labels = task(7)
    expected = ranked(query, gallery, labels)
    product, noise = torch.mm, torch.Generator().manual_seed(0)

    def reduced(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        product(left, right, out=out)
        return out.add_(error * torch.rand(out.shape, generator=noise))

    monkeypatch.setattr(torch, "mm", reduced)
    assert ranked(query, gallery, labels) == expected


@pytest.mark.parametrize("on_device", [False, True])
def test_tensors_and_the_device_implementation_rank_the_same(on_device: bool, monkeypatch) -> None:
    query, gallery, labels = task(8)
    gallery[100:300] = gallery[:200]
    expected = ranked(query, gallery, labels)
    if on_device:
        monkeypatch.setattr(module, "count_above", similarity_counts.count_above_on_device)
        monkeypatch.setattr(module, "find_between", similarity_counts.find_between_on_device)
    assert ranked(torch.from_numpy(query), torch.from_numpy(gallery), labels) == expected


def test_sorted_hit_ranks_match_a_stable_argsort() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 20, 300) / 20
    hits = rng.choice(300, 25, replace=False)
    order = np.argsort(-similarity, kind="stable")
    expected = np.flatnonzero(np.isin(order, hits)) + 1
    np.testing.assert_array_equal(sorted_hit_ranks(similarity, hits), expected)
