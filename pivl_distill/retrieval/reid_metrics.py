"""Retrieval by the Market-1501 protocol: CMC, mAP and mINP, exact.

Each query ranks the gallery by cosine similarity, which is the order of Euclidean distances between
L2-normalised features. Crops of the query's own identity from its own camera are junk: neither hit
nor miss (Zheng et al., ICCV 2015); where cameras are unknown this rule is left out, and the result
says so. AP is the mean precision at the hits, as in CLIP-ReID, FastReID
and Torchreid; the original Matlab code takes trapezoids instead. mINP is Ye et al. (TPAMI 2021).
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
    """Evaluate features [Q, F] against [G, F], with int pids and camids [Q] and [G].

    Features are arrays, or tensors on one device, which then does the work. Similarities are
    exact to float64 and ties keep the order of the gallery, so that the result depends neither on
    the device nor on `memory_bytes`, which similarities may take beyond float32 copies of the
    features. Without camids no crop counts as of its query's camera. Gallery crops of pid −1 are
    dropped. Queries without a hit in the gallery are skipped and counted. Raises PivlError if
    features are not finite or no query is valid.
    """
    judged = _ValidPairs.from_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    ranked = hit_ranks(query, judged.keep(gallery), judged.matches, memory_bytes)
    return judged.result(ranked, max_rank)


def evaluate_distances(
    distances: Iterable[np.ndarray],
    query_pids: np.ndarray,
    gallery_pids: np.ndarray,
    query_camids: np.ndarray | None,
    gallery_camids: np.ndarray | None,
    *,
    max_rank: int = 50,
) -> RetrievalResult:
    """`evaluate` for distances [Q, G], e.g. after re-ranking; as one array or block after block.

    Equal distances keep the order of the gallery.
    """
    judged = _ValidPairs.from_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    return judged.result(_distance_ranks(distances, judged), max_rank)


@dataclass(frozen=True)
class _ValidPairs:
    """What the labels say: the gallery crops that count, and the matches among them."""

    matches: Matches
    kept: np.ndarray  # bool [G]
    queries: int
    camera_rule: bool

    @classmethod
    def from_labels(
        cls,
        query_pids: np.ndarray,
        gallery_pids: np.ndarray,
        query_camids: np.ndarray | None,
        gallery_camids: np.ndarray | None,
    ) -> _ValidPairs:
        kept = gallery_pids != -1
        camera_rule = query_camids is not None and gallery_camids is not None
        camids = None if gallery_camids is None else gallery_camids[kept]
        matches = Matches(query_pids, gallery_pids[kept], query_camids, camids)
        return cls(matches, kept, len(query_pids), camera_rule)

    def keep(self, gallery: Features) -> Features:
        """The features of the crops that count; a copy only where some do not."""
        if self.kept.all():
            return gallery
        if isinstance(gallery, Tensor):
            return gallery[torch.from_numpy(self.kept).to(gallery.device)]
        return gallery[self.kept]

    def result(
        self, ranked: Iterable[tuple[np.ndarray, np.ndarray]], max_rank: int
    ) -> RetrievalResult:
        """The means over queries [n] with ranks [n, P], ascending, filled up with 0."""
        first = np.zeros(self.queries, np.int64)
        precision, penalty = np.zeros(self.queries), np.zeros(self.queries)
        for queries, ranks in ranked:
            number = np.arange(1, ranks.shape[1] + 1)
            count = np.count_nonzero(ranks, axis=1)
            first[queries] = ranks[:, 0]
            at_hits = np.divide(number, ranks, out=np.zeros(ranks.shape), where=ranks > 0)
            precision[queries] = at_hits.sum(axis=1) / count
            penalty[queries] = count / ranks.max(axis=1)
        valid = first > 0
        if not valid.any():
            raise _nothing_to_measure(self.camera_rule)
        return RetrievalResult(
            mAP=float(precision[valid].mean()),
            cmc=(first[valid, None] <= np.arange(1, max_rank + 1)).mean(axis=0),
            mINP=float(penalty[valid].mean()),
            valid_queries=int(valid.sum()),
            skipped_queries=int((~valid).sum()),
            camera_rule=self.camera_rule,
        )


def _distance_ranks(
    distances: Iterable[np.ndarray], judged: _ValidPairs
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    query = 0
    for block in distances:
        for row in np.atleast_2d(block):
            if not np.isfinite(row).all():
                raise PivlError(f"The distances of query {query} are not finite.")
            hits, junk = judged.matches.hits_and_junk(np.array([query]))
            if hits.size:
                similarity = -row[judged.kept]
                similarity[junk[0]] = -np.inf
                yield np.array([query]), sorted_hit_ranks(similarity, hits[0])[None]
            query += 1


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
