"""Which gallery crops are hits and which are junk for each query, from labels alone.

Crops of the query's identity are hits, but junk — neither hit nor miss — if they are also of its
camera (Zheng et al., ICCV 2015).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pivl_distill.retrieval.similarity import chunk_rows

PADDING = -1


class Matches:
    """The gallery positions of each query's identity, found by one sort of the labels."""

    def __init__(
        self,
        query_pids: np.ndarray,
        gallery_pids: np.ndarray,
        query_camids: np.ndarray | None,
        gallery_camids: np.ndarray | None,
    ) -> None:
        """Int [Q] and [G] each; without camids nothing is junk."""
        self._camids = (query_camids, gallery_camids)
        self._order = np.argsort(gallery_pids, kind="stable")
        ordered = gallery_pids[self._order]
        self._start = np.searchsorted(ordered, query_pids, side="left")
        self._count = np.searchsorted(ordered, query_pids, side="right") - self._start

    def hits_and_junk(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hits [n, P] and junk [n, J] as gallery positions, rows filled up with PADDING."""
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
        """The queries that may have hits, in chunks whose similarities take `memory_bytes`.

        Those with equally many matches come together, so that little is padding.
        """
        queries = np.argsort(-self._count, kind="stable")[: np.count_nonzero(self._count)]
        while len(queries):
            size = self.chunk_queries(memory_bytes, int(self._count[queries[0]]))
            yield queries[:size]
            queries = queries[size:]

    def chunk_queries(self, memory_bytes: int, matches: int = 0) -> int:
        """How many queries make a chunk, where each has as many `matches` at most."""
        row_bytes = 4 * len(self._order) + 64 * matches
        return min(chunk_rows(memory_bytes, row_bytes), len(self._count))


def _to_front(columns: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    width = chosen.sum(axis=1).max(initial=0)
    front = np.argsort(~chosen, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(chosen, front, axis=1)
    return np.where(kept, np.take_along_axis(columns, front, axis=1), PADDING)
