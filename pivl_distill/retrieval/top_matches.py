"""The gallery crops that a query finds first, in the order that the scores are based on."""

from __future__ import annotations

import numpy as np
import torch

from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.similarity import UnitFeatures, exact_rows

NO_MATCH = -1
"""In place of a gallery position, if fewer crops than requested are ranked."""


def top_matches(
    features: QueryGalleryFeatures, test: QueryGalleryCrops, queries: np.ndarray, count: int
) -> np.ndarray:
    """Return the gallery positions of the `count` most similar crops: int64 [n, count].

    As in scoring, crops of pid −1 are left out, and crops of the query's identity from its own
    camera if cameras are known; ties keep the order of the gallery. `queries` are int [n]
    positions. Rows are padded with NO_MATCH.
    """
    query = UnitFeatures.from_raw(features.query, "query")
    gallery = UnitFeatures.from_raw(features.gallery, "gallery")
    found = np.full((len(queries), count), NO_MATCH)
    for row, number in enumerate(queries):
        similarity = exact_rows(query, gallery, torch.tensor([number]))[0].numpy()
        ranked = ~unranked(test, int(number))
        order = np.argsort(-similarity, kind="stable")
        order = order[ranked[order]][:count]
        found[row, : len(order)] = order
    return found


def unranked(test: QueryGalleryCrops, query: int) -> np.ndarray:
    """Return which gallery crops take no part in the ranking of a query: bool [G]."""
    gallery = test.gallery
    left_out: np.ndarray = gallery.pids == -1
    if test.query.camids is not None and gallery.camids is not None:
        same_camera = gallery.camids == test.query.camids[query]
        left_out = left_out | (same_camera & (gallery.pids == test.query.pids[query]))
    return left_out
