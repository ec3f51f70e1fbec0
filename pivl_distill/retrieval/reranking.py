"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), sparse and in chunks.

Two crops are k-reciprocal neighbours if each is among the k most similar of the other, queries and
gallery taken together. A crop is encoded by its k1-reciprocal neighbours and by theirs, weighted by
how near they are, and encodings are averaged over the k2 nearest; the Jaccard distance of two
encodings is mixed with the original distance. As in the authors' code the original distance is the
squared Euclidean one, divided by the largest from the same crop.

An encoding has some dozens of entries among N, so that none of this needs an N × N matrix: only
the nearest of a chunk of rows are kept, and encodings meet through the entries that they share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    chunk_rows,
    empty_product,
    exact_pairs,
    exact_rows,
    float32_tolerance,
)

NO_NEIGHBOUR = -1
_ROWS = 64
"""Crops whose neighbours' neighbours are compared at a time."""

_LEAST_FARTHEST = 1e-6
"""A collapsed network's distances are all about 0, which must not divide them."""

_SAMPLE = 512
"""Similarities of each chunk that are computed exactly, to learn how exact the others are."""

_TILE = 512
"""Rows at a time of a product that is symmetric."""

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
    distances = rerank_rows(query, gallery, k1, k2, lambda_value, memory_bytes=memory_bytes)
    result = torch.cat(list(distances))
    return result if isinstance(query, Tensor) else result.numpy()


def rerank_rows(
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
    features = UnitFeatures.from_raw(_joined(query, gallery), "query and gallery")
    similarities = _Similarities(features.unit(), memory_bytes)
    nearest = _Nearest.of(features, similarities, k1, k2, memory_bytes)
    encodings = _Encodings.of(similarities, nearest, k1)
    if k2 > 1:
        encodings = encodings.averaged(nearest.crops[:, :k2])
    jaccard = _Jaccard(encodings, len(query))
    for rows in blocks(len(query), chunk_rows(memory_bytes, 4 * len(gallery))):
        similarity = similarities.rows(rows)[:, len(query) :]
        original = _distance(similarity) / nearest.farthest[rows, None]
        yield (1 - lambda_value) * jaccard.distances(rows) + lambda_value * original


def _joined(query: Features, gallery: Features) -> Features:
    if isinstance(query, Tensor) and isinstance(gallery, Tensor):
        return torch.cat([query, gallery])
    return np.concatenate([query, gallery])


def _distance(similarity: Tensor) -> Tensor:
    """Squared Euclidean, of unit vectors."""
    return 2 - 2 * similarity


class _Similarities:
    """float32, of N unit vectors among themselves: all of them where memory allows it."""

    def __init__(self, unit: Tensor, memory_bytes: int) -> None:
        self._unit = unit
        self._whole = _symmetric(unit) if 4 * len(unit) ** 2 <= memory_bytes else None

    def rows(self, rows: Tensor | slice) -> Tensor:
        """[n, N]."""
        return self._unit[rows] @ self._unit.T if self._whole is None else self._whole[rows]

    def pairs(self, one: Tensor, other: Tensor) -> Tensor:
        """[E]."""
        if self._whole is None:
            return torch.linalg.vecdot(self._unit[one], self._unit[other])
        return self._whole[one, other]


def _symmetric(unit: Tensor) -> Tensor:
    """Products [N, N] of vectors [N, F]; what is symmetric is multiplied once."""
    product = empty_product(len(unit), len(unit), unit.device)
    for rows in blocks(len(unit), _TILE):
        torch.mm(unit[rows], unit[rows.start :].T, out=product[rows, rows.start :])
        product[rows.stop :, rows] = product[rows, rows.stop :].T
    return product


@dataclass(frozen=True)
class _Nearest:
    """Of each of the N crops the nearest, itself among them, and how far the farthest is."""

    crops: Tensor  # int64 [N, K], nearest first
    farthest: Tensor  # float32 [N], squared distance

    @classmethod
    def of(
        cls,
        features: UnitFeatures,
        similarities: _Similarities,
        k1: int,
        k2: int,
        memory_bytes: int,
    ) -> _Nearest:
        """As many as k1 and k2 ask for. Only where a list is cut must the order be exact."""
        count = len(features)
        after = [cut for cut in (k1 + 1, _half(k1), k2) if cut < count]
        before = [cut - 1 for cut in after]
        width = min(max(k1 + 1, k2), count)
        crops = torch.empty(count, width, dtype=torch.int64, device=features.device)
        farthest = torch.empty(count, device=features.device)
        chunks, doubtful = list(blocks(count, chunk_rows(memory_bytes, 4 * count))), []
        for rows in track(chunks, "Finding neighbours", unit="chunks"):
            similarity = similarities.rows(rows)
            farthest[rows] = _distance(similarity.amin(dim=1)).clamp(min=_LEAST_FARTHEST)
            value, found = similarity.topk(min(width + 1, count))
            crops[rows] = found[:, :width]
            some = torch.linspace(0, len(found) - 1, _SAMPLE, device=found.device).long()
            exact = exact_pairs(features, features, rows.start + some, found[some, -1])
            unclear = (value[:, before] - value[:, after]) <= float32_tolerance(
                value[some, -1], exact
            )
            doubtful.append(rows.start + unclear.any(dim=1).nonzero().flatten())
        for some in torch.cat(doubtful).split(_ROWS):
            exact = exact_rows(features, features, some)
            crops[some] = exact.argsort(dim=1, descending=True, stable=True)[:, :width]
        return cls(crops, farthest)


def _half(k1: int) -> int:
    return round(k1 / 2) + 1


def _reciprocal(nearest: Tensor) -> Tensor:
    """`nearest` [N, k] with NOBODY for those who do not have the crop among their own k."""
    result = torch.full_like(nearest, NO_NEIGHBOUR)
    for rows in blocks(len(nearest), _ROWS):
        me = torch.arange(rows.start, rows.stop, device=nearest.device)
        mutual = (nearest[nearest[rows]] == me[:, None, None]).any(dim=2)
        result[rows] = nearest[rows].where(mutual, NO_NEIGHBOUR)
    return result


def _expanded(neighbours: Tensor, closer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (crop, neighbour) [·] of each block of crops, ascending, after expansion.

    `neighbours` [N, k] are the k-reciprocal ones and `closer` [N, k / 2] those of half the k. Where
    more than two thirds of a neighbour's closer ones are also the crop's neighbours, they join.
    """
    for rows in blocks(len(neighbours), _ROWS):
        mine = neighbours[rows]
        theirs = closer[mine.clamp(min=0)].where((mine != NO_NEIGHBOUR)[:, :, None], NO_NEIGHBOUR)
        someone = theirs != NO_NEIGHBOUR
        common = someone & (theirs[:, :, :, None] == mine[:, None, None, :]).any(dim=3)
        joins = 3 * common.sum(dim=2) > 2 * someone.sum(dim=2)
        joined = theirs.where(joins[:, :, None], NO_NEIGHBOUR).flatten(start_dim=1)
        members = torch.cat([mine, joined], dim=1).sort(dim=1).values
        new = members != NO_NEIGHBOUR
        new[:, 1:] &= members[:, 1:] != members[:, :-1]
        crop, number = new.nonzero(as_tuple=True)
        yield crop + rows.start, members[crop, number]


@dataclass(frozen=True)
class _Encodings:
    """A sparse matrix [N, N]: by crop the weights of its neighbours, which sum to one."""

    crop: Tensor  # int64 [E], ascending
    neighbour: Tensor  # int64 [E]
    weight: Tensor  # float32 [E]
    start: Tensor  # int64 [N + 1], where each crop's entries begin

    @classmethod
    def joined(cls, parts: Iterable[tuple[Tensor, Tensor, Tensor]], count: int) -> _Encodings:
        crop, neighbour, weight = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(crop, neighbour, weight, _starts(crop, count))

    @classmethod
    def of(cls, similarities: _Similarities, nearest: _Nearest, k1: int) -> _Encodings:
        neighbours = _reciprocal(nearest.crops[:, : k1 + 1])
        closer = _reciprocal(nearest.crops[:, : _half(k1)])
        parts, count = [], len(nearest.crops)
        for crop, neighbour in _expanded(neighbours, closer):
            similarity = similarities.pairs(crop, neighbour)
            weight = torch.exp(-_distance(similarity) / nearest.farthest[crop])
            total = weight.new_zeros(count).index_add_(0, crop, weight)
            parts.append((crop, neighbour, weight / total[crop]))
        return cls.joined(parts, count)

    def averaged(self, crops: Tensor) -> _Encodings:
        """The means of the encodings of `crops` [N, k2]."""
        count, k2 = crops.shape
        parts = []
        for rows in blocks(count, _ROWS):
            some = crops[rows].flatten()
            item, entry = _ranges(self.start[some], self.start[some + 1])
            cell = item // k2 * count + self.neighbour[entry]
            cells, inverse = cell.unique(return_inverse=True)
            weight = self.weight.new_zeros(len(cells)).index_add_(0, inverse, self.weight[entry])
            parts.append((rows.start + cells // count, cells % count, weight / k2))
        return self.joined(parts, count)


class _Jaccard:
    """Jaccard distances of queries and gallery through the entries that their encodings share.

    The smaller of two weights is not 0 only where both are, so a query meets those gallery crops
    alone that have one of its own neighbours.
    """

    def __init__(self, encodings: _Encodings, queries: int) -> None:
        """The first `queries` of the N encodings are the queries', the others the gallery's."""
        count = len(encodings.start) - 1
        gallery = slice(int(encodings.start[queries]), None)
        neighbour, by_neighbour = encodings.neighbour[gallery].sort(stable=True)
        self._encodings = encodings
        self._start = _starts(neighbour, count)
        self._crop = (encodings.crop[gallery] - queries)[by_neighbour]
        self._weight = encodings.weight[gallery][by_neighbour]
        self._gallery = count - queries

    def distances(self, queries: slice) -> Tensor:
        """float32 [n, G] of some queries."""
        encodings = self._encodings
        own = slice(*encodings.start[[queries.start, queries.stop]].tolist())
        query, weight = encodings.crop[own] - queries.start, encodings.weight[own]
        first, end = (self._start[encodings.neighbour[own] + after] for after in (0, 1))
        common = weight.new_zeros((queries.stop - queries.start) * self._gallery)
        most = int((end - first).max()) if len(first) else 0
        for some in blocks(len(query), max(_MEETINGS // max(most, 1), 1)):
            entry, other = _ranges(first[some], end[some])
            smaller = torch.minimum(weight[some][entry], self._weight[other])
            common.index_add_(0, query[some][entry] * self._gallery + self._crop[other], smaller)
        common = common.view(-1, self._gallery)
        return 1 - common / (2 - common)


def _starts(ascending: Tensor, count: int) -> Tensor:
    """Where each of 0..count begins [count + 1]."""
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device))


def _ranges(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers in first..end−1 of each item, with the item that they come from: int64 [·]."""
    length = end - first
    item = torch.arange(len(first), device=first.device).repeat_interleave(length)
    before = length.cumsum(0) - length
    return item, torch.arange(len(item), device=first.device) + (first - before)[item]
