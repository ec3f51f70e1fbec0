"""At which ranks the hits of each query stand: exact, without sorting the gallery.

A hit's rank is one more than the number of crops more similar to the query. Three steps find it,
each for what the one before leaves open:

1. *Count* in float32 what lies above a hit by more than a tolerance: a multiple of the errors that
   the matrix product made on a sample, so that it covers whatever a device does.
2. *Decide* what lies within the tolerance by float64 similarities, pair by pair. Equal ones keep
   the order of the gallery.
3. *Sort* a float64 row after all where that is too many, as with a network that has collapsed.

So ranks are those of float64 similarities, on any device, in any chunks.
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
"""Of one query; above it, sorting a float64 row is cheaper than its pairs."""


_SAMPLE = 128
"""Hits of a chunk, and as many pairs that are none, that tell the errors of its product."""


def hit_ranks(
    query: Features, gallery: Features, matches: Matches, memory_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield some queries [n] and the ranks of their hits, ascending from 1: int64 [n, P].

    Rows are filled up with 0 at their end. Junk takes no rank. Queries without hits are left out.
    """
    ours, theirs = UnitFeatures.from_raw(query, "query"), UnitFeatures.from_raw(gallery, "gallery")
    device = theirs.device
    buffer = empty_product(matches.chunk_queries(memory_bytes), len(gallery), device)
    for candidates in matches.chunks(memory_bytes):
        hits, junk = matches.hits_and_junk(candidates)
        found = (hits != PADDING).any(axis=1)
        if found.any():
            chosen = (candidates[found], hits[found], junk[found])
            labels = (torch.from_numpy(kept).to(device) for kept in chosen)
            yield candidates[found], _Chunk(ours, theirs, *labels).ranks(buffer).cpu().numpy()


def sorted_hit_ranks(similarity: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Ascending ranks, from 1, of the gallery positions `hits` by falling `similarity` [G].

    Only ties look at the gallery's order. Junk has similarity −inf.
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
    """`_SAMPLE` of `count` places, or all, evenly spread: int64."""
    number = min(_SAMPLE, count)
    return torch.arange(number, device=device) * count // number


@dataclass(frozen=True)
class _Chunk:
    """Some queries, each with a hit; their hits and junk are padded."""

    query: UnitFeatures
    gallery: UnitFeatures
    queries: Tensor  # int64 [n], rows of `query`
    hits: Tensor  # int64 [n, P], rows of `gallery`
    junk: Tensor  # int64 [n, J]

    def ranks(self, buffer: Tensor) -> Tensor:
        """Ascending ranks [n, P], padded with 0; `buffer` [≥ n, G] takes the similarities.

        These are the product with `gallery.floats` times `gallery.scale`, which waits until it is
        read: a pass over all of them only for that would take its time.
        """
        scale, product = self.gallery.scale, buffer[: len(self.queries)]
        torch.mm(self.query.unit(self.queries), self.gallery.floats.T, out=product)
        padding, columns = self.hits == PADDING, self.hits.clamp(min=0)
        doubt = self._tolerance(product, ~padding)
        self._hide(self.junk, product)
        value = (product.gather(1, columns) * scale[columns]).masked_fill_(padding, torch.inf)
        low, high = (value - doubt).nextafter(value.new_tensor(-torch.inf)), value + doubt
        bounds = torch.cat([high, low], dim=1)
        above, from_low = count_above(product, scale, bounds).chunk(2, dim=1)
        contested = from_low - above - (~padding).long()  # a hit is always near itself
        crowded = contested.sum(dim=1) > MAX_TIES
        row, number = ((contested > 0) & ~crowded[:, None]).nonzero(as_tuple=True)
        pair, rival = find_between(product, scale, row, low[row, number], high[row, number])
        ranks = 1 + above + self._before(row[pair], number[pair], rival)
        ranks = ranks.masked_fill_(padding, len(self.gallery) + 1).sort(dim=1).values
        ranks.masked_fill_(ranks > len(self.gallery), 0)
        few = max(len(buffer) // 4, 1)
        for rows in crowded.nonzero().flatten().split(few) if crowded.any() else ():
            ranks[rows] = self._sorted(rows)
        return ranks

    def _hide(self, junk: Tensor, similarity: Tensor) -> None:
        row, number = (junk != PADDING).nonzero(as_tuple=True)
        similarity[row, junk[row, number]] = -torch.inf

    def _tolerance(self, product: Tensor, real: Tensor) -> float:
        """From pairs spread over the product [n, G]: hits, those that are `real`, and others.

        A chunk with few hits, or with hits of little similarity, would tell too little.
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
        """How many rivals come before each hit [n, P], given triples of query, hit and rival."""
        query, hit = self.queries[row], self.hits[row, number]
        pairs, pair = torch.stack([query, hit]).unique(dim=1, return_inverse=True)
        ours = exact_pairs(self.query, self.gallery, *pairs)[pair]
        theirs = exact_pairs(self.query, self.gallery, query, rival)
        before = (theirs > ours) | ((theirs == ours) & (rival < hit))
        return torch.zeros_like(self.hits).index_put_((row, number), before.long(), accumulate=True)

    def _sorted(self, rows: Tensor) -> Tensor:
        """Ranks [r, P] of the chunk's `rows` from float64 similarities, sorted."""
        similarity = exact_rows(self.query, self.gallery, self.queries[rows])
        self._hide(self.junk[rows], similarity)
        ranks = torch.zeros_like(self.hits[rows])
        for number, row in enumerate(rows.tolist()):
            hits = self.hits[row][self.hits[row] != PADDING].cpu().numpy()
            found = sorted_hit_ranks(similarity[number].cpu().numpy(), hits)
            ranks[number, : len(found)] = torch.from_numpy(found)
        return ranks
