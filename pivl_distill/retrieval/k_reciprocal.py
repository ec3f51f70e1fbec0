"""k-reciprocal neighbours and their sparse encodings, for re-ranking (Zhong et al., CVPR 2017).

Queries and gallery form one set of N crops, queries first. Two crops are k-reciprocal neighbours if
each is among the k most similar crops of the other. A crop's encoding holds its k1-reciprocal
neighbours, expanded by theirs and weighted by proximity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pivl_distill.console import track
from pivl_distill.retrieval.similarity import (
    UnitFeatures,
    blocks,
    chunk_rows,
    empty_product,
    exact_pairs,
    exact_rows,
    float32_tolerance,
)

NO_NEIGHBOUR = -1
"""Padding of neighbour lists."""

_ROWS = 64
"""Crops per step of neighbour comparisons, which take [_ROWS, k, k] and more."""

_LEAST_FARTHEST = 1e-6
"""Lower bound of the divisor of distances, which is about 0 if a network has collapsed."""

_SAMPLE = 512
"""Similarities per chunk that are also computed in float64, to estimate the float32 error."""

_TILE = 512
"""Rows per step of a symmetric product."""


class PairwiseSimilarities:
    """float32 cosine similarities of N unit vectors; the whole [N, N] if memory allows."""

    def __init__(self, unit: Tensor, memory_bytes: int) -> None:
        """`unit` is float32 [N, F]."""
        self._unit = unit
        self._matrix = _gram_matrix(unit) if 4 * len(unit) ** 2 <= memory_bytes else None

    def rows(self, rows: Tensor | slice) -> Tensor:
        """Return [n, N]."""
        return self._unit[rows] @ self._unit.T if self._matrix is None else self._matrix[rows]

    def pairs(self, first: Tensor, second: Tensor) -> Tensor:
        """Return [E] for int64 [E] crops each."""
        if self._matrix is None:
            return torch.linalg.vecdot(self._unit[first], self._unit[second])
        return self._matrix[first, second]


@dataclass(frozen=True)
class NearestNeighbours:
    """The K nearest crops of each of N crops, itself included, and the largest distance."""

    crops: Tensor  # int64 [N, K], nearest first
    farthest: Tensor  # float32 [N], squared distance to the farthest of all N crops

    @classmethod
    def from_features(
        cls,
        features: UnitFeatures,
        similarities: PairwiseSimilarities,
        k1: int,
        k2: int,
        memory_bytes: int,
    ) -> NearestNeighbours:
        """Find K = max(k1 + 1, k2) neighbours, by float64 similarity where float32 is too close.

        The encodings cut lists after k1 + 1, half of k1 and k2 neighbours. The order must be exact
        at these cuts only; rows in doubt there are sorted in float64.

        Args:
            features: N crops.
            similarities: of the same crops.
            k1: size of the k-reciprocal neighbourhood.
            k2: number of encodings to average.
            memory_bytes: of similarities per chunk.
        """
        count = len(features)
        after = [cut for cut in (k1 + 1, half_k(k1), k2) if cut < count]
        before = [cut - 1 for cut in after]
        width = min(max(k1 + 1, k2), count)
        crops = torch.empty(count, width, dtype=torch.int64, device=features.device)
        farthest = torch.empty(count, device=features.device)
        chunks, doubtful = list(blocks(count, chunk_rows(memory_bytes, 4 * count))), []
        for rows in track(chunks, "Finding neighbours", unit="chunks"):
            similarity = similarities.rows(rows)
            farthest[rows] = squared_distance(similarity.amin(dim=1)).clamp(min=_LEAST_FARTHEST)
            value, nearest = similarity.topk(min(width + 1, count))
            crops[rows] = nearest[:, :width]
            some = torch.linspace(0, len(nearest) - 1, _SAMPLE, device=nearest.device).long()
            exact = exact_pairs(features, features, rows.start + some, nearest[some, -1])
            tolerance = float32_tolerance(value[some, -1], exact)
            unclear = (value[:, before] - value[:, after]) <= tolerance
            doubtful.append(rows.start + unclear.any(dim=1).nonzero().flatten())
        for some in torch.cat(doubtful).split(_ROWS):
            exact = exact_rows(features, features, some)
            crops[some] = exact.argsort(dim=1, descending=True, stable=True)[:, :width]
        return cls(crops, farthest)


@dataclass(frozen=True)
class Encodings:
    """A sparse matrix [N, N] with E entries: each crop's neighbours, with weights that sum to 1."""

    crop: Tensor  # int64 [E], ascending
    neighbour: Tensor  # int64 [E]
    weight: Tensor  # float32 [E]
    start: Tensor  # int64 [N + 1], first entry of each crop

    @classmethod
    def concatenate(cls, parts: Iterable[tuple[Tensor, Tensor, Tensor]], count: int) -> Encodings:
        """Join (crop, neighbour, weight) of consecutive blocks of `count` crops."""
        crop, neighbour, weight = (torch.cat(column) for column in zip(*parts, strict=True))
        return cls(crop, neighbour, weight, row_starts(crop, count))

    @classmethod
    def from_neighbours(
        cls, similarities: PairwiseSimilarities, nearest: NearestNeighbours, k1: int
    ) -> Encodings:
        """Encode each crop by exp(−d) over its expanded k1-reciprocal neighbours.

        d is the squared distance divided by the largest from that crop, as in the authors' code.
        """
        neighbours = k_reciprocal_neighbours(nearest.crops[:, : k1 + 1])
        closer = k_reciprocal_neighbours(nearest.crops[:, : half_k(k1)])
        parts, count = [], len(nearest.crops)
        for crop, neighbour in expanded_neighbours(neighbours, closer):
            similarity = similarities.pairs(crop, neighbour)
            weight = torch.exp(-squared_distance(similarity) / nearest.farthest[crop])
            total = weight.new_zeros(count).index_add_(0, crop, weight)
            parts.append((crop, neighbour, weight / total[crop]))
        return cls.concatenate(parts, count)

    def averaged(self, crops: Tensor) -> Encodings:
        """Average the encodings of each row of `crops`, int64 [N, k2] (local query expansion)."""
        count, k2 = crops.shape
        parts = []
        for rows in blocks(count, _ROWS):
            some = crops[rows].flatten()
            item, entry = expand_ranges(self.start[some], self.start[some + 1])
            cell = item // k2 * count + self.neighbour[entry]
            cells, inverse = cell.unique(return_inverse=True)
            weight = self.weight.new_zeros(len(cells)).index_add_(0, inverse, self.weight[entry])
            parts.append((rows.start + cells // count, cells % count, weight / k2))
        return self.concatenate(parts, count)


def squared_distance(similarity: Tensor) -> Tensor:
    """Return the squared Euclidean distance of unit vectors from their cosine."""
    return 2 - 2 * similarity


def half_k(k1: int) -> int:
    """Return the neighbours, itself included, that an expanding neighbour contributes."""
    return round(k1 / 2) + 1


def k_reciprocal_neighbours(nearest: Tensor) -> Tensor:
    """Return `nearest` [N, k], with NO_NEIGHBOUR in place of crops that are not reciprocal."""
    result = torch.full_like(nearest, NO_NEIGHBOUR)
    for rows in blocks(len(nearest), _ROWS):
        crop = torch.arange(rows.start, rows.stop, device=nearest.device)
        mutual = (nearest[nearest[rows]] == crop[:, None, None]).any(dim=2)
        result[rows] = nearest[rows].where(mutual, NO_NEIGHBOUR)
    return result


def expanded_neighbours(neighbours: Tensor, closer: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs (crop, neighbour), int64 [E] each and ascending, of consecutive blocks of crops.

    `neighbours` [N, k] are the k-reciprocal neighbours, `closer` those for half of k. The closer
    ones of a neighbour are added if more than two thirds of them are already the crop's neighbours.
    """
    for rows in blocks(len(neighbours), _ROWS):
        mine = neighbours[rows]
        theirs = closer[mine.clamp(min=0)].where((mine != NO_NEIGHBOUR)[:, :, None], NO_NEIGHBOUR)
        present = theirs != NO_NEIGHBOUR
        common = present & (theirs[:, :, :, None] == mine[:, None, None, :]).any(dim=3)
        joins = 3 * common.sum(dim=2) > 2 * present.sum(dim=2)
        joined = theirs.where(joins[:, :, None], NO_NEIGHBOUR).flatten(start_dim=1)
        members = torch.cat([mine, joined], dim=1).sort(dim=1).values
        new = members != NO_NEIGHBOUR
        new[:, 1:] &= members[:, 1:] != members[:, :-1]
        crop, number = new.nonzero(as_tuple=True)
        yield crop + rows.start, members[crop, number]


def row_starts(ascending: Tensor, count: int) -> Tensor:
    """Return where each value 0 to `count` begins in a sorted vector: int64 [count + 1]."""
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device))


def expand_ranges(first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers first..end − 1 of every item, and the item of each: (item, number)."""
    length = end - first
    item = torch.arange(len(first), device=first.device).repeat_interleave(length)
    before = length.cumsum(0) - length
    return item, torch.arange(len(item), device=first.device) + (first - before)[item]


def _gram_matrix(unit: Tensor) -> Tensor:
    """Return the products [N, N] of vectors [N, F]; computes the upper triangle and mirrors it."""
    product = empty_product(len(unit), len(unit), unit.device)
    for rows in blocks(len(unit), _TILE):
        torch.mm(unit[rows], unit[rows.start :].T, out=product[rows, rows.start :])
        product[rows.stop :, rows] = product[rows, rows.stop :].T
    return product
