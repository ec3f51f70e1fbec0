"""Ranks of each query's hits, exact to float64, without sorting the gallery.

A hit's rank is one more than the number of crops that are more similar to the query. It is found in
up to three steps, each for the pairs that the previous one leaves open:

1. *Count* in float32 the crops that exceed a hit by more than a tolerance. The tolerance is a
   multiple of the error of the matrix product on a sample, so it holds on any device.
2. *Compare* the crops within the tolerance by float64 similarity, pair by pair. Ties keep the order
   of the gallery.
3. *Sort* the float64 row if it has too many such pairs, e.g. because the network has collapsed.

Ranks therefore depend neither on the device nor on the size of chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.retrieval.matches import PADDING, Matches
from pivl_distill.retrieval.similarity import (
    Features,
    UnitFeatures,
    empty_product,
    exact_pairs,
    exact_rows,
    float32_tolerance,
)
from pivl_distill.retrieval.similarity_counts import count_above, find_between

MAX_TIES = 256
"""Pairs of one query to compare; for more, sorting the float64 row is cheaper."""

_SAMPLE = 128
"""Hits per chunk, and as many other pairs, that estimate the error of its product."""


def hit_ranks(
    query: Features, gallery: Features, matches: Matches, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some queries, int64 [n], and the ascending ranks of their hits from 1, int64 [n, K].

    Rows are padded with 0 at the end. Junk has no rank. Queries without hits are omitted.
    `memory_bytes` bounds the similarities of a chunk; features are [Q, F] and [G, F].
    """
    query_unit = UnitFeatures.from_raw(query, "query")
    gallery_unit = UnitFeatures.from_raw(gallery, "gallery")
    device = gallery_unit.device
    buffer = empty_product(matches.chunk_queries(memory_bytes), len(gallery), device)
    for candidates in matches.chunks(memory_bytes):
        hits, junk = matches.hits_and_junk(candidates)
        found = (hits != PADDING).any(axis=1)
        if found.any():
            valid = (candidates[found], hits[found], junk[found])
            labels = (torch.from_numpy(array).to(device) for array in valid)
            ranks = _Chunk(query_unit, gallery_unit, *labels).ranks(buffer)
            yield candidates[found], ranks.cpu().numpy()


def sorted_hit_ranks(similarity: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Return the ascending ranks, from 1, of the gallery positions `hits` [K]: int64 [K].

    The gallery is ranked by descending `similarity` [G], with ties in gallery order. Junk has
    similarity −inf.
    """
    ordered = np.sort(similarity)
    values = similarity[hits]
    end = np.searchsorted(ordered, values, side="right")
    ranks = 1 + len(ordered) - end
    tied = end - np.searchsorted(ordered, values, side="left") > 1
    for number in np.flatnonzero(tied):
        ranks[number] += np.count_nonzero(similarity[: hits[number]] == values[number])
    return np.sort(ranks)


def _spread(count: int, device: torch.device) -> Tensor:
    """Return `_SAMPLE` evenly spaced indices below `count`, or all: int64."""
    number = min(_SAMPLE, count)
    return torch.arange(number, device=device) * count // number


@dataclass(frozen=True)
class _Chunk:
    """Queries that all have a hit, with their padded hits and junk."""

    query: UnitFeatures
    gallery: UnitFeatures
    queries: Tensor  # int64 [n], rows of `query`
    hits: Tensor  # int64 [n, K], rows of `gallery`
    junk: Tensor  # int64 [n, J]

    def ranks(self, buffer: Tensor) -> Tensor:
        """Return ascending ranks [n, K], padded with 0; `buffer` [≥ n, G] holds the product.

        Similarities are the product with `gallery.floats`, times `gallery.scale`. The scale is
        applied when values are read, which saves a pass over the whole product.
        """
        scale, product = self.gallery.scale, buffer[: len(self.queries)]
        torch.mm(self.query.unit(self.queries), self.gallery.floats.T, out=product)
        padding, columns = self.hits == PADDING, self.hits.clamp(min=0)
        margin = self._tolerance(product, ~padding)
        self._hide(self.junk, product)
        value = (product.gather(1, columns) * scale[columns]).masked_fill_(padding, torch.inf)
        low, high = (value - margin).nextafter(value.new_tensor(-torch.inf)), value + margin
        bounds = torch.cat([high, low], dim=1)
        above, from_low = count_above(product, scale, bounds).chunk(2, dim=1)
        contested = from_low - above - (~padding).long()  # each hit counts itself once
        too_many_ties = contested.sum(dim=1) > MAX_TIES
        row, number = ((contested > 0) & ~too_many_ties[:, None]).nonzero(as_tuple=True)
        pair, rival = find_between(product, scale, row, low[row, number], high[row, number])
        ranks = 1 + above + self._before(row[pair], number[pair], rival)
        ranks = ranks.masked_fill_(padding, len(self.gallery) + 1).sort(dim=1).values
        ranks.masked_fill_(ranks > len(self.gallery), 0)
        if too_many_ties.any():
            rows_per_step = max(len(buffer) // 4, 1)
            for rows in too_many_ties.nonzero().flatten().split(rows_per_step):
                ranks[rows] = self._sorted(rows)
        return ranks

    def _hide(self, junk: Tensor, similarity: Tensor) -> None:
        row, number = (junk != PADDING).nonzero(as_tuple=True)
        similarity[row, junk[row, number]] = -torch.inf

    def _tolerance(self, product: Tensor, real: Tensor) -> float:
        """Estimate the tolerance from real hits (not padding) and pairs spread over the product.

        Hits alone would not suffice: there may be few, or all of low similarity.
        """
        row, number = real.nonzero(as_tuple=True)
        hits = _spread(len(row), row.device)
        row, column = row[hits], self.hits[row[hits], number[hits]]
        others = _spread(product.numel(), row.device)
        row = torch.cat([row, others // product.shape[1]])
        column = torch.cat([column, others % product.shape[1]])
        exact = exact_pairs(self.query, self.gallery, self.queries[row], column)
        return float32_tolerance(product[row, column] * self.gallery.scale[column], exact)

    def _before(self, row: Tensor, number: Tensor, rival: Tensor) -> Tensor:
        """Count the rivals before each hit [n, K], from triples (row, number of the hit, rival)."""
        query, hit = self.queries[row], self.hits[row, number]
        pairs, pair = torch.stack([query, hit]).unique(dim=1, return_inverse=True)
        ours = exact_pairs(self.query, self.gallery, *pairs)[pair]
        theirs = exact_pairs(self.query, self.gallery, query, rival)
        before = (theirs > ours) | ((theirs == ours) & (rival < hit))
        return torch.zeros_like(self.hits).index_put_((row, number), before.long(), accumulate=True)

    def _sorted(self, rows: Tensor) -> Tensor:
        """Return the ranks [r, K] of the chunk's `rows`, by sorting float64 similarities."""
        similarity = exact_rows(self.query, self.gallery, self.queries[rows])
        self._hide(self.junk[rows], similarity)
        ranks = torch.zeros_like(self.hits[rows])
        for number, row in enumerate(rows.tolist()):
            hits = self.hits[row][self.hits[row] != PADDING].cpu().numpy()
            found = sorted_hit_ranks(similarity[number].cpu().numpy(), hits)
            ranks[number, : len(found)] = torch.from_numpy(found)
        return ranks
