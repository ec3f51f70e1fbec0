"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), sparse and in chunks.

Two crops are k-reciprocal neighbours if each is among the k most similar of the other, queries and
gallery taken together. A crop is encoded by its k-reciprocal neighbours and theirs (Eq. 5), weighted
by how near they are (Eq. 7) and averaged over its k2 nearest (Sec. 3.3); the Jaccard distance of
two encodings (Eq. 10) is mixed with the original distance (Eq. 12). As in the authors' code the
original distance is the squared Euclidean one, divided by the largest to the same crop.

An encoding has some dozens of entries among N, so that none of this needs an N × N matrix: only
the nearest of a chunk of rows are kept, and encodings meet through the entries that they share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.console import track
from pivl_distill.errors import PivlError
from pivl_distill.retrieval.similarity import (
    MEMORY_BYTES,
    Features,
    UnitFeatures,
    blocks,
    exact_rows,
    exact_similarity,
    tolerance,
)

NOBODY = -1
_CHUNK_ROWS = 512
_ROWS = 64
"""Crops whose neighbours' neighbours are compared at a time."""

_MEETINGS = 2**21
"""Entries of queries and gallery that meet at a time."""


def rerank(
    query: Features,
    gallery: Features,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Features:
    """Distances float32 [Q, G] of features [Q, F] and [G, F] after re-ranking.

    `k1` neighbours are looked at, `k2` averaged over, and `lambda_value` is the share of the
    original distance; the defaults are the paper's. Features are L2-normalised first. Arrays give
    an array, tensors a tensor on their device. Neighbours are those of float64 similarities; equal
    ones keep their order, queries first.
    """
    distances = reranked(query, gallery, k1, k2, lambda_value, memory_bytes=memory_bytes)
    result = torch.cat(list(distances))
    return result if isinstance(query, Tensor) else result.numpy()


def reranked(
    query: Features,
    gallery: Features,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[Tensor]:
    """The rows of `rerank`, chunk after chunk, for galleries whose Q × G distances are too many."""
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise PivlError(
            f"Re-ranking takes k1 and k2 from 1 on and lambda_value in 0..1, not {k1}, {k2} and"
            f" {lambda_value}."
        )
    features = UnitFeatures.of(_joined(query, gallery), "query and gallery")
    nearest = _Nearest.of(features, k1, k2, memory_bytes)
    encodings = _encodings(features, nearest, k1)
    if k2 > 1:
        encodings = _averaged(encodings, nearest, k2)
    jaccard = _Jaccard(encodings, len(query))
    for rows in blocks(len(query), _rows_in(memory_bytes, len(gallery))):
        similarity = features.unit[rows] @ features.unit[len(query) :].T
        original = _distance(similarity) / nearest.farthest[rows, None]
        yield (1 - lambda_value) * jaccard.distances(rows) + lambda_value * original


def _joined(query: Features, gallery: Features) -> Features:
    if isinstance(query, Tensor) and isinstance(gallery, Tensor):
        return torch.cat([query, gallery])
    return np.concatenate([query, gallery])


def _rows_in(memory_bytes: int, columns: int) -> int:
    return min(max(memory_bytes // (4 * columns), 1), _CHUNK_ROWS)


def _distance(similarity: Tensor) -> Tensor:
    """Squared Euclidean, of unit vectors."""
    return 2 - 2 * similarity


@dataclass(frozen=True)
class _Nearest:
    """Of each of the N crops the nearest, itself among them, and how far the farthest is."""

    crops: Tensor  # int64 [N, K], nearest first
    farthest: Tensor  # float32 [N], squared distance

    @classmethod
    def of(cls, features: UnitFeatures, k1: int, k2: int, memory_bytes: int) -> _Nearest:
        """As many as k1 and k2 ask for. Only where a list is cut must the order be exact."""
        count = len(features)
        cuts = [cut for cut in (k1 + 1, _half(k1), k2) if cut < count]
        width = min(max(k1 + 1, k2), count)
        crops = torch.empty(count, width, dtype=torch.int64, device=features.unit.device)
        farthest = torch.empty(count, device=features.unit.device)
        rows_in = _rows_in(memory_bytes, count)
        starts = range(0, count, rows_in)
        for start in track(starts, "Finding neighbours", unit="chunks"):
            rows = torch.arange(start, min(start + rows_in, count), device=crops.device)
            similarity = features.unit[rows] @ features.unit.T
            farthest[rows] = _distance(similarity.amin(dim=1))
            value, found = similarity.topk(min(width + 1, count))
            crops[rows] = found[:, :width]
            sure = tolerance(value[:, -1], exact_similarity(features, features, rows, found[:, -1]))
            doubt = torch.stack([value[:, cut - 1] - value[:, cut] <= sure for cut in cuts])
            for some in rows[doubt.any(dim=0)].split(_ROWS):
                exact = exact_rows(features, features, some)
                crops[some] = exact.argsort(dim=1, descending=True, stable=True)[:, :width]
        return cls(crops, farthest)


def _half(k1: int) -> int:
    return round(k1 / 2) + 1


def _reciprocal(nearest: Tensor) -> Tensor:
    """`nearest` [N, k] with NOBODY for those who do not have the crop among their own k."""
    result = torch.full_like(nearest, NOBODY)
    for rows in blocks(len(nearest), _ROWS):
        me = torch.arange(rows.start, rows.stop, device=nearest.device)
        mutual = (nearest[nearest[rows]] == me[:, None, None]).any(dim=2)
        result[rows] = nearest[rows].where(mutual, NOBODY)
    return result


def _expanded(neighbours: Tensor, closer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (crop, neighbour) [·] of each block of crops, ascending, after expansion.

    `neighbours` [N, k] are the k-reciprocal ones and `closer` [N, k / 2] those of half the k. Where
    more than two thirds of a neighbour's closer ones are also the crop's neighbours, they join.
    """
    for rows in blocks(len(neighbours), _ROWS):
        mine = neighbours[rows]
        theirs = closer[mine.clamp(min=0)].where((mine != NOBODY)[:, :, None], NOBODY)
        someone = theirs != NOBODY
        common = someone & (theirs[:, :, :, None] == mine[:, None, None, :]).any(dim=3)
        joins = 3 * common.sum(dim=2) > 2 * someone.sum(dim=2)
        joined = theirs.where(joins[:, :, None], NOBODY).flatten(start_dim=1)
        members = torch.cat([mine, joined], dim=1).sort(dim=1).values
        new = members != NOBODY
        new[:, 1:] &= members[:, 1:] != members[:, :-1]
        crop, number = new.nonzero(as_tuple=True)
        yield crop + rows.start, members[crop, number]


def _encodings(features: UnitFeatures, nearest: _Nearest, k1: int) -> Tensor:
    """Sparse float32 [N, N]; a row holds the weights of a crop's neighbours, which sum to one."""
    neighbours = _reciprocal(nearest.crops[:, : k1 + 1])
    closer = _reciprocal(nearest.crops[:, : _half(k1)])
    pairs, weights = [], []
    for crop, neighbour in _expanded(neighbours, closer):
        similarity = torch.linalg.vecdot(features.unit[crop], features.unit[neighbour])
        weight = torch.exp(-_distance(similarity) / nearest.farthest[crop])
        total = torch.zeros(len(features), device=crop.device).index_add_(0, crop, weight)
        pairs.append(torch.stack([crop, neighbour]))
        weights.append(weight / total[crop])
    size = (len(features), len(features))
    return torch.sparse_coo_tensor(torch.cat(pairs, dim=1), torch.cat(weights), size)


def _averaged(encodings: Tensor, nearest: _Nearest, k2: int) -> Tensor:
    """The means over the encodings of the `k2` nearest of each crop."""
    crops = nearest.crops[:, :k2]
    rows = torch.arange(len(crops), device=crops.device).repeat_interleave(crops.shape[1])
    pairs = torch.stack([rows, crops.flatten()])
    share = torch.full((pairs.shape[1],), 1 / crops.shape[1], device=crops.device)
    return torch.sparse.mm(torch.sparse_coo_tensor(pairs, share, encodings.shape), encodings)


class _Jaccard:
    """Jaccard distances of encodings through their common entries.

    The smaller of two weights is not 0 only where both are, so a query meets those gallery crops
    alone that stand in the columns of its own entries.
    """

    def __init__(self, encodings: Tensor, queries: int) -> None:
        """The first `queries` of the N encodings are the queries', the others the gallery's."""
        encodings = encodings.coalesce()
        (row, column), weight = encodings.indices(), encodings.values()
        everyone = torch.arange(len(encodings) + 1, device=row.device)
        self._row, self._column, self._weight = row, column, weight
        self._row_start = torch.searchsorted(row, everyone)
        gallery = slice(int(self._row_start[queries]), None)
        by_column = column[gallery].argsort(stable=True)
        self._crop = (row[gallery] - queries)[by_column]
        self._crop_weight = weight[gallery][by_column]
        self._column_start = torch.searchsorted(column[gallery][by_column], everyone)
        self._gallery = len(encodings) - queries

    def distances(self, queries: slice) -> Tensor:
        """float32 [n, G] of some queries."""
        entries = slice(*self._row_start[[queries.start, queries.stop]].tolist())
        row = self._row[entries] - queries.start
        column, weight = self._column[entries], self._weight[entries]
        first = self._column_start[column]
        count = self._column_start[column + 1] - first
        common = torch.zeros(queries.stop - queries.start, self._gallery, device=row.device)
        at_a_time = max(_MEETINGS // max(int(count.max()), 1), 1)
        for some in blocks(len(row), at_a_time):
            entry = torch.arange(some.start, some.stop, device=row.device)
            entry = entry.repeat_interleave(count[some])
            before = count[some].cumsum(0) - count[some]
            number = torch.arange(len(entry), device=row.device) - before[entry - some.start]
            met = first[entry] + number
            cell = row[entry] * self._gallery + self._crop[met]
            smaller = torch.minimum(weight[entry], self._crop_weight[met])
            common.view(-1).index_add_(0, cell, smaller)
        return 1 - common / (2 - common)
