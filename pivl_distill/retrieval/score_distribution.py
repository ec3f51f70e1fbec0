"""Cosines of genuine and of impostor pairs, counted in bins, and the error rates that follow.

Pairs are those of `thresholds`: query × gallery, of different cameras if these are known. Memory
does not grow with the number of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.similarity import UnitFeatures, exact_rows
from pivl_distill.retrieval.thresholds import comparable_pairs

BINS = 2000
"""Bins of equal width from −1 to 1."""
_CHUNK = 256
"""Queries per step."""


@dataclass(frozen=True)
class ScoreDistribution:
    """Number of pairs in each bin: int64 [`BINS`] each. `edges` are float64 [`BINS` + 1]."""

    edges: np.ndarray
    genuine: np.ndarray
    impostor: np.ndarray

    @property
    def false_accept_rates(self) -> np.ndarray:
        """Share of impostor pairs in or above each bin: float64 [`BINS`], at `edges[:-1]`."""
        return _from_above(self.impostor)

    @property
    def false_reject_rates(self) -> np.ndarray:
        """Share of genuine pairs below each bin: float64 [`BINS`], at `edges[:-1]`."""
        rates: np.ndarray = 1 - _from_above(self.genuine)
        return rates

    @property
    def equal_error_rate(self) -> float:
        """Mean of both rates at the edge where they differ least."""
        accepts, rejects = self.false_accept_rates, self.false_reject_rates
        place = int(np.argmin(np.abs(accepts - rejects)))
        return float((accepts[place] + rejects[place]) / 2)

    def shares(self, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return middles of `bins` wider bins, and the shares of genuine and impostor pairs."""
        middles = self.edges[:-1].reshape(bins, -1).mean(axis=1) + 1 / BINS
        genuine, impostor = (
            counts.reshape(bins, -1).sum(axis=1) / max(counts.sum(), 1)
            for counts in (self.genuine, self.impostor)
        )
        return middles, genuine, impostor


def score_distribution(
    features: QueryGalleryFeatures, crops: QueryGalleryCrops
) -> ScoreDistribution:
    """Count the cosines of all comparable pairs; pairs of a gallery crop of pid −1 are none."""
    query, gallery = crops.query, crops.gallery
    valid = gallery.pids != -1
    camids = None if gallery.camids is None else gallery.camids[valid]
    units = (
        UnitFeatures.from_raw(features.query, "query"),
        UnitFeatures.from_raw(features.gallery[valid], "gallery"),
    )
    edges = np.linspace(-1, 1, BINS + 1)
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for pairs in comparable_pairs(query.pids, gallery.pids[valid], query.camids, camids, _CHUNK):
        similarity = exact_rows(*units, pairs.rows).numpy()
        place = np.clip(np.searchsorted(edges, similarity, side="right") - 1, 0, BINS - 1)
        genuine += np.bincount(place[pairs.genuine], minlength=BINS)
        impostor += np.bincount(place[pairs.impostor], minlength=BINS)
    return ScoreDistribution(edges, genuine, impostor)


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Share of the values in or above each bin."""
    shares: np.ndarray = counts[::-1].cumsum()[::-1] / max(counts.sum(), 1)
    return shares
