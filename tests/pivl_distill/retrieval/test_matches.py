"""Hits and junk against the definition; chunks contain every query."""

from __future__ import annotations

import numpy as np
import pytest

from pivl_distill.retrieval.matches import PADDING, Matches


def labels(seed: int = 0, queries: int = 40, gallery: int = 150) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = (queries, gallery, queries, gallery)
    return [rng.integers(0, most, size) for most, size in zip((12, 10, 3, 3), sizes, strict=True)]


@pytest.mark.parametrize("cameras", [True, False])
def test_hits_and_junk_match_the_definition(cameras: bool) -> None:
    query_pids, gallery_pids, query_camids, gallery_camids = labels()
    known = (query_camids, gallery_camids) if cameras else (None, None)
    queries = np.array([3, 0, 17, 39])
    hits, junk = Matches(query_pids, gallery_pids, *known).hits_and_junk(queries)
    for row, query in enumerate(queries):
        same = gallery_pids == query_pids[query]
        own = same & (gallery_camids == query_camids[query]) if cameras else np.zeros(150, bool)
        np.testing.assert_array_equal(hits[row][hits[row] != PADDING], np.flatnonzero(same & ~own))
        np.testing.assert_array_equal(junk[row][junk[row] != PADDING], np.flatnonzero(own))
        assert not np.diff(hits[row] == PADDING).any() or hits[row][0] != PADDING


def test_chunks_contain_every_query_with_a_match_once() -> None:
    query_pids, gallery_pids, *camids = labels()
    matches = Matches(query_pids, gallery_pids, *camids)
    chunks = list(matches.chunks(memory_bytes=7 * 150 * 8))
    found = np.concatenate(chunks)
    assert sorted(found) == np.flatnonzero(np.isin(query_pids, gallery_pids)).tolist()
    assert all(len(chunk) <= matches.chunk_queries(7 * 150 * 8) for chunk in chunks)
    assert len(chunks) > 1


def test_least_memory_gives_one_query_per_chunk() -> None:
    query_pids, gallery_pids, *camids = labels()
    assert {len(chunk) for chunk in Matches(query_pids, gallery_pids, *camids).chunks(1)} == {1}


def test_many_matches_make_smaller_chunks() -> None:
    many = Matches(np.zeros(100, int), np.zeros(1000, int), None, None)
    few = Matches(np.zeros(100, int), np.arange(1000), None, None)
    sizes = [len(next(iter(matches.chunks(10**6)))) for matches in (many, few)]
    assert sizes[0] < sizes[1]
