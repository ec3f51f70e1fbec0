"""Retrieval by the Market-1501 protocol: CMC, mAP and mINP, exact and in float64.

Each query ranks the gallery by cosine similarity, which is the order of Euclidean distances between
L2-normalised features. Crops of the query's own identity from its own camera are junk: neither hit
nor miss (Zheng et al., ICCV 2015); where cameras are unknown this rule is left out, and the result
says so. AP is the mean precision at the hits, as in CLIP-ReID, FastReID
and Torchreid; the original Matlab code takes trapezoids instead. mINP is Ye et al. (TPAMI 2021).
Re-ranking is left out on purpose: it is no part of a deployed embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pivl_distill.errors import PivlError

TIE_DECIMALS = 12
"""Similarities equal to so many decimals are ties: matrix products differ by 1e-16 for one vector
depending on its place in the gallery, and features are float32 anyway."""


@dataclass(frozen=True)
class RetrievalResult:
    """Means over the valid queries; `cmc[k − 1]` is the share that has a hit in the first k.

    `camera_rule` is False if cameras are unknown, so that crops of the query's own camera counted
    as hits: such figures are higher than, and no match for, those of the usual protocol.
    """

    mAP: float  # noqa: N815
    cmc: np.ndarray
    mINP: float  # noqa: N815
    valid_queries: int
    skipped_queries: int
    camera_rule: bool = True

    def rank(self, k: int) -> float:
        """Share of valid queries with a hit among the first `k`, e.g. `rank(1)`."""
        return float(self.cmc[k - 1])

    def summary(self) -> dict[str, float]:
        """The figures of the field as plain numbers, shares of 1."""
        ranks = {f"rank{k}": self.rank(k) for k in (1, 5, 10)}
        counts = {"valid_queries": self.valid_queries, "skipped_queries": self.skipped_queries}
        rule = {"camera_rule": self.camera_rule}
        return {"mAP": self.mAP, **ranks, "mINP": self.mINP, **counts, **rule}


def evaluate(
    query: np.ndarray,
    gallery: np.ndarray,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    max_rank: int = 50,
    chunk: int = 256,
) -> RetrievalResult:
    """Evaluate features [Q, F] against [G, F], with int pids and camids [Q] and [G].

    Without camids no crop counts as of its query's camera. Gallery crops of pid −1 are dropped.
    Queries without a hit in the gallery are skipped and counted. Ties keep the order of the
    gallery. Memory beyond float64 copies of the features is `chunk` × G. Raises PivlError if
    features are not finite or no query is valid.
    """
    camera_rule = query_camids is not None and gallery_camids is not None
    if query_camids is None or gallery_camids is None:
        query_camids, gallery_camids = np.zeros(len(query)), np.ones(len(gallery))
    kept = gallery_pids != -1
    gallery_pids, gallery_camids = gallery_pids[kept], gallery_camids[kept]
    query_unit = unit_rows(query, "query")
    gallery_unit = unit_rows(gallery[kept], "gallery")
    hit_ranks = []
    for start in range(0, len(query), chunk):
        similarity = (query_unit[start : start + chunk] @ gallery_unit.T).round(TIE_DECIMALS)
        for row, number in zip(similarity, range(start, len(query)), strict=False):
            same = gallery_pids == query_pids[number]
            junk = same & (gallery_camids == query_camids[number])
            if (hits := np.flatnonzero(same & ~junk)).size:
                row[junk] = -np.inf
                hit_ranks.append(_ranks(row, hits))
    if not hit_ranks:
        raise _nothing_to_measure(camera_rule)
    first = np.array([ranks[0] for ranks in hit_ranks])
    precision = [np.mean(np.arange(1, len(ranks) + 1) / ranks) for ranks in hit_ranks]
    return RetrievalResult(
        mAP=float(np.mean(precision)),
        cmc=(first[:, None] <= np.arange(1, max_rank + 1)).mean(axis=0),
        mINP=float(np.mean([len(ranks) / ranks[-1] for ranks in hit_ranks])),
        valid_queries=len(hit_ranks),
        skipped_queries=len(query) - len(hit_ranks),
        camera_rule=camera_rule,
    )


def _nothing_to_measure(camera_rule: bool) -> PivlError:
    if not camera_rule:
        return PivlError(
            "No query has its person in the gallery, so there is nothing to measure. Check that "
            "query and gallery share identities."
        )
    return PivlError(
        "No query has its person in the gallery under another camera, so there is nothing to "
        "measure. Check that query and gallery share identities and that more than one camera "
        "is told apart (crops of one person from one camera count as junk)."
    )


def _ranks(similarity: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Ascending ranks (from 1) of the gallery positions `hits` by falling similarity [G].

    Counting what beats a hit needs no argsort; only ties look at the gallery's order.
    """
    ordered = np.sort(similarity)
    values = similarity[hits]
    end = np.searchsorted(ordered, values, side="right")
    ranks = 1 + len(ordered) - end
    tied = end - np.searchsorted(ordered, values, side="left") > 1
    for number in np.flatnonzero(tied):
        ranks[number] += np.count_nonzero(similarity[: hits[number]] == values[number])
    return np.sort(ranks)


def unit_rows(features: np.ndarray, name: str) -> np.ndarray:
    """float64 [N, F] with rows of length one; a zero row stays zero.

    Raises PivlError, which calls the features by `name`, if some are not finite.
    """
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise PivlError(
            f"{broken.sum()} of {len(features)} {name} features are not finite (first: row "
            f"{broken.argmax()}). The network diverged or overflowed in low precision."
        )
    features = features.astype(np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(norms > 0, norms, 1)
    return features
