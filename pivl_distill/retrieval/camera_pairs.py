"""Retrieval between two cameras: queries of one against the gallery of another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.reid_metrics import evaluate


@dataclass(frozen=True)
class CameraPair:
    """Queries and gallery crops of two different cameras that share identities."""

    query_camera: int
    gallery_camera: int
    query: np.ndarray
    """int64, indices of the queries."""
    gallery: np.ndarray
    """int64, indices of the gallery crops."""

    def scores(
        self, features: QueryGalleryFeatures, crops: QueryGalleryCrops
    ) -> tuple[float, float]:
        """Return mAP and Rank-1, in 0..1, of the queries whose person this gallery contains."""
        result = evaluate(
            features.query[self.query],
            features.gallery[self.gallery],
            crops.query.pids[self.query],
            crops.gallery.pids[self.gallery],
            None,  # the cameras differ, so there is no junk of the query's camera
            None,
        )
        return result.mAP, result.rank(1)


def camera_pairs(crops: QueryGalleryCrops) -> Iterator[CameraPair]:
    """Yield all pairs in the order of their camera ids; none if cameras are unknown.

    Queries whose person the other camera did not see are left out.
    """
    query_camids, gallery_camids = crops.query.camids, crops.gallery.camids
    if query_camids is None or gallery_camids is None:
        return
    for ours in np.unique(query_camids):
        for theirs in np.unique(gallery_camids[gallery_camids != ours]):
            gallery = np.flatnonzero(gallery_camids == theirs)
            seen = np.isin(crops.query.pids, crops.gallery.pids[gallery])
            query = np.flatnonzero((query_camids == ours) & seen & (crops.query.pids != -1))
            if len(query):
                yield CameraPair(int(ours), int(theirs), query, gallery)
