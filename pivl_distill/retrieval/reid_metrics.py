"""CMC, mAP and mINP by the Market-1501 protocol, exact.

Each query ranks the gallery by cosine similarity, the order of Euclidean distances between
L2-normalised features. Gallery crops of the query's identity and camera are junk: neither hit nor
miss (Zheng et al., ICCV 2015). If cameras are unknown, this rule is skipped and the result records
that. AP is the mean precision at the hits, as in CLIP-ReID, FastReID and Torchreid; the original
Matlab code uses trapezoids instead. mINP is from Ye et al. (TPAMI 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.errors import PivlError
from pivl_distill.retrieval.hit_ranks import hit_ranks, sorted_hit_ranks
from pivl_distill.retrieval.matches import Matches
from pivl_distill.retrieval.similarity import MEMORY_BYTES, Features


@dataclass(frozen=True)
class RetrievalResult:
    """Means over the valid queries, as shares of 1."""

    mAP: float  # noqa: N815
    cmc: np.ndarray
    """float64 [max_rank]: `cmc[k − 1]` is the share of queries with a hit in the first k."""
    mINP: float  # noqa: N815
    valid_queries: int
    skipped_queries: int
    """Queries without a hit in the gallery."""
    camera_rule: bool = True
    """False if cameras are unknown, so that crops of the query's own camera count as hits. The
    scores are then higher and not comparable with those of the usual protocol."""

    def rank(self, k: int) -> float:
        """Return the share of valid queries with a hit in the first `k`, e.g. `rank(1)`."""
        return float(self.cmc[k - 1])

    def summary(self) -> dict[str, float]:
        """Return mAP, Rank-1, -5 and -10, mINP and counts as plain numbers, for JSON."""
        ranks = {f"rank{k}": self.rank(k) for k in (1, 5, 10)}
        counts = {"valid_queries": self.valid_queries, "skipped_queries": self.skipped_queries}
        rule = {"camera_rule": self.camera_rule}
        return {"mAP": self.mAP, **ranks, "mINP": self.mINP, **counts, **rule}


@dataclass(frozen=True)
class QueryScores:
    """Scores of each of Q queries; `result` has their means.

    A query without a hit in the gallery is not valid, and its scores are 0.
    """

    average_precision: np.ndarray
    """float64 [Q]."""
    first_hit: np.ndarray
    """int64 [Q], rank of the first hit from 1."""
    inverse_penalty: np.ndarray
    """float64 [Q], hits divided by the rank of the last one; its mean is mINP."""
    camera_rule: bool

    @property
    def valid(self) -> np.ndarray:
        """bool [Q], whether the query has a hit in the gallery."""
        return self.first_hit > 0

    def result(self, max_rank: int = 50) -> RetrievalResult:
        """Average over the valid queries; raises PivlError if there are none."""
        valid = self.valid
        if not valid.any():
            raise _no_valid_query(self.camera_rule)
        ranks = np.arange(1, max_rank + 1)
        return RetrievalResult(
            mAP=float(self.average_precision[valid].mean()),
            cmc=(self.first_hit[valid, None] <= ranks).mean(axis=0),
            mINP=float(self.inverse_penalty[valid].mean()),
            valid_queries=int(valid.sum()),
            skipped_queries=int((~valid).sum()),
            camera_rule=self.camera_rule,
        )


def evaluate(
    query: Features,
    gallery: Features,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    max_rank: int = 50,
    memory_bytes: int = MEMORY_BYTES,
) -> RetrievalResult:
    """Evaluate query features against gallery features.

    Ranks are exact to float64 and ties keep the order of the gallery, so the result depends neither
    on the device nor on `memory_bytes`. Queries without a hit in the gallery are skipped.

    Args:
        query: features [Q, F] of any float type and length: arrays, or tensors on the device that
            computes.
        gallery: features [G, F], an array or tensor like `query`.
        query_pids: int [Q] identities.
        gallery_pids: int [G] identities; crops of pid −1 are dropped.
        query_camids: int [Q] camera ids, or None if cameras are unknown.
        gallery_camids: int [G] camera ids, or None if cameras are unknown.
        max_rank: length of the CMC curve.
        memory_bytes: of similarities per chunk, beyond float32 copies of the features.

    Raises:
        PivlError: features are not finite, or no query has a hit.
    """
    labels = (query_pids, gallery_pids, query_camids, gallery_camids)
    return score_queries(query, gallery, *labels, memory_bytes=memory_bytes).result(max_rank)


def score_queries(
    query: Features,
    gallery: Features,
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    memory_bytes: int = MEMORY_BYTES,
) -> QueryScores:
    """Return the scores of each query; arguments and errors are those of `evaluate`."""
    task = _RetrievalTask.from_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    return task.scores(hit_ranks(query, task.select(gallery), task.matches, memory_bytes))


def evaluate_distances(
    distances: Iterable[np.ndarray],
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    max_rank: int = 50,
) -> RetrievalResult:
    """Evaluate distances, e.g. after re-ranking; equal distances keep the order of the gallery.

    Args:
        distances: [Q, G] as one array, or as consecutive blocks of rows [n, G].
        query_pids: int [Q] identities.
        gallery_pids: int [G] identities; crops of pid −1 are dropped.
        query_camids: int [Q] camera ids, or None if cameras are unknown.
        gallery_camids: int [G] camera ids, or None if cameras are unknown.
        max_rank: length of the CMC curve.

    Raises:
        PivlError: a distance is not finite, or no query has a hit.
    """
    task = _RetrievalTask.from_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    return task.scores(_distance_ranks(distances, task)).result(max_rank)


@dataclass(frozen=True)
class _RetrievalTask:
    """The gallery crops that are ranked, and the matches among them."""

    matches: Matches
    ranked: np.ndarray  # bool [G], not of pid −1
    queries: int
    camera_rule: bool

    @classmethod
    def from_labels(
        cls,
        query_pids: np.ndarray,
        gallery_pids: np.ndarray,
        query_camids: np.ndarray | None,
        gallery_camids: np.ndarray | None,
    ) -> _RetrievalTask:
        """Drop gallery crops of pid −1 and find the matches of the others."""
        ranked = gallery_pids != -1
        camera_rule = query_camids is not None and gallery_camids is not None
        camids = None if gallery_camids is None else gallery_camids[ranked]
        matches = Matches(query_pids, gallery_pids[ranked], query_camids, camids)
        return cls(matches, ranked, len(query_pids), camera_rule)

    def select(self, gallery: Features) -> Features:
        """Return the features of the ranked crops; a copy only if some are dropped."""
        if self.ranked.all():
            return gallery
        if isinstance(gallery, Tensor):
            return gallery[torch.from_numpy(self.ranked).to(gallery.device)]
        return gallery[self.ranked]

    def scores(self, ranks_of_hits: Iterable[tuple[np.ndarray, np.ndarray]]) -> QueryScores:
        """Score queries [n] with ascending ranks of hits [n, K], padded with 0."""
        first_hit = np.zeros(self.queries, np.int64)
        average_precision, inverse_penalty = np.zeros(self.queries), np.zeros(self.queries)
        for queries, ranks in ranks_of_hits:
            number = np.arange(1, ranks.shape[1] + 1)
            count = np.count_nonzero(ranks, axis=1)
            first_hit[queries] = ranks[:, 0]
            at_hits = np.divide(number, ranks, out=np.zeros(ranks.shape), where=ranks > 0)
            average_precision[queries] = at_hits.sum(axis=1) / count
            inverse_penalty[queries] = count / ranks.max(axis=1)
        return QueryScores(average_precision, first_hit, inverse_penalty, self.camera_rule)


def _distance_ranks(
    distances: Iterable[np.ndarray], task: _RetrievalTask
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    query = 0
    for block in distances:
        for row in np.atleast_2d(block):
            if not np.isfinite(row).all():
                raise PivlError(f"The distances of query {query} are not finite.")
            hits, junk = task.matches.hits_and_junk(np.array([query]))
            if hits.size:
                similarity = -row[task.ranked]
                similarity[junk[0]] = -np.inf
                yield np.array([query]), sorted_hit_ranks(similarity, hits[0])[None]
            query += 1


def _no_valid_query(camera_rule: bool) -> PivlError:
    if not camera_rule:
        return PivlError(
            "No query has its person in the gallery, so there is nothing to measure. Check that "
            "query and gallery share identities."
        )
    return PivlError(
        "No query has its person in the gallery under another camera, so there is nothing to "
        "measure. Check that query and gallery share identities and that there is more than one "
        "camera id (gallery crops from the query's camera are junk)."
    )
