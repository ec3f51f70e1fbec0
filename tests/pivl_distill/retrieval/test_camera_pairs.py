"""Retrieval between two cameras, against the protocol on the crops of those cameras."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pivl_distill.data.store import CropStore
from pivl_distill.retrieval.camera_pairs import camera_pairs
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures

BLANK = np.zeros((1, 2, 2, 3), np.uint8)


def store(pids: list[int], camids: list[int]) -> CropStore:
    return CropStore(BLANK.repeat(len(pids), 0), None, np.array(pids), np.array(camids))


QUERY, GALLERY = store([0, 1, 2, 0], [0, 0, 0, 1]), store([0, 1, 0, 2, 5], [1, 1, 0, 2, 2])
CROPS = QueryGalleryCrops(QUERY, GALLERY)


def test_pairs_hold_the_queries_that_the_other_camera_saw():
    found = {
        (pair.query_camera, pair.gallery_camera): (pair.query.tolist(), pair.gallery.tolist())
        for pair in camera_pairs(CROPS)
    }
    assert found == {(0, 1): ([0, 1], [0, 1]), (0, 2): ([2], [3, 4]), (1, 0): ([3], [2])}


def test_scores_are_those_of_the_pair_alone():
    query = np.eye(3)[[0, 1, 2, 0]]
    gallery = np.eye(3)[[0, 0, 1, 1, 2]]  # query 1 ranks crop 0 before its own
    gallery[1] += [0, 0.1, 0]
    pairs = {
        (pair.query_camera, pair.gallery_camera): pair.scores(
            QueryGalleryFeatures(query, gallery), CROPS
        )
        for pair in camera_pairs(CROPS)
    }
    assert pairs[0, 1] == pytest.approx((1, 1))
    assert pairs[0, 2] == pytest.approx((0.5, 0))


def test_without_cameras_there_are_no_pairs():
    unknown = QueryGalleryCrops(replace(QUERY, camids=None), GALLERY)
    assert list(camera_pairs(unknown)) == []
