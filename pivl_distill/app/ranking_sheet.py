"""A picture of search results: each row is a query and its top matches, marked right or wrong."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures
from pivl_distill.retrieval.top_matches import NO_MATCH, top_matches
from pivl_distill.storage.files import write_bytes

RIGHT_RGB, WRONG_RGB, QUERY_RGB = (40, 160, 70), (200, 50, 40), (90, 90, 90)
_BORDER_PX = 3


def ranking_sheet(
    features: QueryGalleryFeatures,
    test: QueryGalleryCrops,
    out: Path,
    rows: int = 8,
    matches: int = 8,
) -> None:
    """Write a PNG of `rows` evenly spaced queries and their `matches` nearest gallery crops.

    Matches of the query's identity have a green frame, others a red one; `top_matches` ranks them.

    Args:
        features: features of query and gallery.
        test: the crops they belong to.
        out: PNG file.
        rows: number of queries.
        matches: number of matches per query.
    """
    chosen = np.linspace(0, len(test.query) - 1, min(rows, len(test.query))).astype(int)
    pictures = []
    for query, found in zip(chosen, top_matches(features, test, chosen, matches), strict=True):
        row = [_framed(test.query.crops[query], QUERY_RGB)]
        for match in found[found != NO_MATCH]:
            right = test.gallery.pids[match] == test.query.pids[query]
            row.append(_framed(test.gallery.crops[match], RIGHT_RGB if right else WRONG_RGB))
        pictures.append(np.concatenate(row, axis=1))
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures)).save(buffer, "PNG")
    write_bytes(out, buffer.getvalue())


def _framed(crop: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    height, width, _ = crop.shape
    framed = np.empty((height + 2 * _BORDER_PX, width + 2 * _BORDER_PX, 3), np.uint8)
    framed[:] = rgb
    framed[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = crop
    return framed
