"""Hits and junk among the gallery crops of each query, from labels alone.

A gallery crop of the query's identity is a hit. If it is also from the query's camera, it is junk:
neither hit nor miss (Zheng et al., ICCV 2015).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pivl_distill.retrieval.similarity import chunk_rows

PADDING = -1
"""Fills up rows of gallery positions."""


class Matches:
    """Gallery positions of each query's identity, from one sort of the gallery labels."""

    def __init__(
        self,
        query_pids: np.ndarray,
        gallery_pids: np.ndarray,
        query_camids: np.ndarray | None,
        gallery_camids: np.ndarray | None,
    ) -> None:
        """Take int [Q] and [G] labels; without camera ids no crop is junk."""
        self._camids = (query_camids, gallery_camids)
        self._order = np.argsort(gallery_pids, kind="stable")
        ordered = gallery_pids[self._order]
        self._start = np.searchsorted(ordered, query_pids, side="left")
        self._count = np.searchsorted(ordered, query_pids, side="right") - self._start

    def hits_and_junk(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return hits [n, K] and junk [n, J] as gallery positions, padded at the end."""
        offset = np.arange(self._count[queries].max(initial=0))
        same = offset < self._count[queries, None]
        last = len(self._order) - 1
        columns = self._order[np.minimum(self._start[queries, None] + offset, last)]
        query_camids, gallery_camids = self._camids
        junk = np.zeros_like(same)
        if query_camids is not None and gallery_camids is not None:
            junk = same & (gallery_camids[columns] == query_camids[queries, None])
        return _to_front(columns, same & ~junk), _to_front(columns, junk)

    def chunks(self, memory_bytes: int) -> Iterator[np.ndarray]:
        """Yield the queries with a match, int64 [n], in chunks of `memory_bytes` of similarities.

        Queries are sorted by their number of matches, so that rows need little padding.
        """
        queries = np.argsort(-self._count, kind="stable")[: np.count_nonzero(self._count)]
        while len(queries):
            size = self.chunk_queries(memory_bytes, int(self._count[queries[0]]))
            yield queries[:size]
            queries = queries[size:]

    def chunk_queries(self, memory_bytes: int, matches: int = 0) -> int:
        """Return how many queries fit in a chunk if each has at most `matches` matches."""
        row_bytes = 4 * len(self._order) + 64 * matches
        return min(chunk_rows(memory_bytes, row_bytes), len(self._count))


def _to_front(columns: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen columns [n, k] of each row first, in order, padded with PADDING."""
    width = chosen.sum(axis=1).max(initial=0)
    front = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
    is_chosen = np.take_along_axis(chosen, front, axis=1)
    return np.where(is_chosen, np.take_along_axis(columns, front, axis=1), PADDING)
