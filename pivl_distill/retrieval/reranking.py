"""Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017), sparse and in chunks.

The re-ranked distance mixes the Jaccard distance of two crops' k-reciprocal encodings with their
original distance. As in the authors' code, the original distance is the squared Euclidean one,
divided by the largest from the same crop.

An encoding has a few dozen of N entries, so no step needs an N × N matrix: only the nearest crops
of each chunk of rows are kept, and encodings are compared through their shared entries.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.k_reciprocal import (
    Encodings,
    NearestNeighbours,
    PairwiseSimilarities,
    expand_ranges,
    row_starts,
    squared_distance,
)
from pivl_distill.retrieval.similarity import (
    MEMORY_BYTES,
    Features,
    UnitFeatures,
    blocks,
    chunk_rows,
)

_ENTRY_PAIRS = 2**21
"""Pairs of query and gallery entries per step."""


def rerank(
    query: Features,
    gallery: Features,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> Features:
    """Return re-ranked distances, float32 [Q, G]; lower is more similar.

    Neighbours are exact to float64 and ties keep the order of the crops, queries first, so the
    neighbours depend neither on the device nor on `memory_bytes`. The defaults are the paper's.

    Args:
        query: features [Q, F]; L2-normalised here.
        gallery: features [G, F], an array or tensor like `query`.
        k1: size of the k-reciprocal neighbourhood.
        k2: number of nearest crops whose encodings are averaged; 1 turns averaging off.
        lambda_value: share of the original distance, 0 to 1.
        memory_bytes: of similarities per chunk.

    Returns:
        An array for arrays; a tensor on the same device for tensors.

    Raises:
        PivlError: a parameter is out of range, or features are not finite.
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
    """Yield the rows of `rerank` in chunks [n, G], for Q × G distances that exceed memory.

    Args:
        query: features [Q, F].
        gallery: features [G, F].
        k1: as in `rerank`.
        k2: as in `rerank`.
        lambda_value: as in `rerank`.
        memory_bytes: of distances per chunk.
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise PivlError(
            f"Re-ranking needs k1 ≥ 1, k2 ≥ 1 and lambda_value in 0..1, not {k1}, {k2} and"
            f" {lambda_value}."
        )
    features = UnitFeatures.from_raw(_concatenate(query, gallery), "query and gallery")
    similarities = PairwiseSimilarities(features.unit(), memory_bytes)
    nearest = NearestNeighbours.from_features(features, similarities, k1, k2, memory_bytes)
    encodings = Encodings.from_neighbours(similarities, nearest, k1)
    if k2 > 1:
        encodings = encodings.averaged(nearest.crops[:, :k2])
    jaccard = _JaccardDistances(encodings, len(query))
    for rows in blocks(len(query), chunk_rows(memory_bytes, 4 * len(gallery))):
        similarity = similarities.rows(rows)[:, len(query) :]
        original = squared_distance(similarity) / nearest.farthest[rows, None]
        yield (1 - lambda_value) * jaccard.rows(rows) + lambda_value * original


def _concatenate(query: Features, gallery: Features) -> Features:
    if isinstance(query, Tensor) and isinstance(gallery, Tensor):
        return torch.cat([query, gallery])
    return np.concatenate([query, gallery])


class _JaccardDistances:
    """Jaccard distances of queries and gallery, from the entries that their encodings share.

    The minimum of two weights is non-zero only if both are, so a query is compared only with
    gallery crops that share one of its neighbours.
    """

    def __init__(self, encodings: Encodings, queries: int) -> None:
        """The first `queries` of the N encodings belong to queries, the others to the gallery."""
        count = len(encodings.start) - 1
        gallery = slice(int(encodings.start[queries]), None)
        neighbour, by_neighbour = encodings.neighbour[gallery].sort(stable=True)
        self._encodings = encodings
        self._start = row_starts(neighbour, count)
        self._crop = (encodings.crop[gallery] - queries)[by_neighbour]
        self._weight = encodings.weight[gallery][by_neighbour]
        self._gallery = count - queries

    def rows(self, queries: slice) -> Tensor:
        """Return the distances of some queries, float32 [n, G]."""
        encodings = self._encodings
        entries = slice(*encodings.start[[queries.start, queries.stop]].tolist())
        query, weight = encodings.crop[entries] - queries.start, encodings.weight[entries]
        first, end = (self._start[encodings.neighbour[entries] + after] for after in (0, 1))
        common = weight.new_zeros((queries.stop - queries.start) * self._gallery)
        most = int((end - first).max()) if len(first) else 0
        for some in blocks(len(query), max(_ENTRY_PAIRS // max(most, 1), 1)):
            entry, other = expand_ranges(first[some], end[some])
            smaller = torch.minimum(weight[some][entry], self._weight[other])
            common.index_add_(0, query[some][entry] * self._gallery + self._crop[other], smaller)
        common = common.view(-1, self._gallery)
        return 1 - common / (2 - common)
