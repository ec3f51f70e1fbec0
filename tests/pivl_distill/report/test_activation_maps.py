"""Activation maps of a network whose answer is known, queries and their references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.models.map_layer import MapLayer, SplitNetwork, as_is
from pivl_distill.report.activation_maps import (
    activation_maps,
    choose_queries,
    heat_on_person,
    mean_hits,
    overlaid,
)
from pivl_distill.retrieval.evaluation import QueryGalleryCrops, QueryGalleryFeatures

BLANK = np.zeros((1, 2, 2, 3), np.uint8)


def store(pids: list[int], camids: list[int]) -> CropStore:
    return CropStore(BLANK.repeat(len(pids), 0), None, np.array(pids), np.array(camids))


CROPS = QueryGalleryCrops(store([7, 3, 5, 3], [0, 0, 0, 1]), store([3, 7, 3, 7], [0, 1, 1, 2]))


def test_heat_is_where_the_pixels_that_make_it_similar_are():
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed ([report])")
    network = nn.Sequential(nn.Conv2d(3, 3, 4, 4, bias=False), nn.AdaptiveAvgPool2d(1))
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3)[:, :, None, None] / 16)  # means of 4 × 4 pixels
    split = SplitNetwork(network, network[0], lambda map_: network[1](map_).flatten(1))
    images = torch.zeros(2, 3, 32, 16)
    images[:, 0, :8] = 1.0  # red at the top
    images[:, 2, 24:] = 1.0  # blue at the bottom
    references = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    top, bottom = activation_maps(MapLayer(split, split.map, as_is), images, references)
    assert top.shape == (32, 16)
    assert 0 <= top.min() < 0.05 < 0.95 < top.max() <= 1
    assert top[:8].mean() > 5 * top[24:].mean()
    assert bottom[24:].mean() > 5 * bottom[:8].mean()


def test_queries_have_a_hit_and_are_spread_over_people():
    assert choose_queries(CROPS, 10).tolist() == [1, 3, 0]
    assert choose_queries(CROPS, 2).tolist() == [1, 0]


def test_references_are_means_of_the_hits():
    gallery = np.array([[2.0, 0], [0, 3], [5, 0], [4, 0]], np.float32)
    features = QueryGalleryFeatures(np.zeros((4, 2), np.float32), gallery)
    found = mean_hits(features, CROPS, np.array([0, 1]))
    unit = F.normalize(torch.from_numpy(gallery), dim=1)
    torch.testing.assert_close(found[0], (unit[1] + unit[3]) / 2)
    torch.testing.assert_close(found[1], unit[2])  # crop 0 is of the query's camera


def test_heat_on_the_person_leaves_out_unknown_pixels():
    heat = np.array([[[1.0, 1, 2, 0]], [[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]]])
    part_maps = [np.array([[0, 1, 2, IGNORE]], np.uint8), None, np.zeros((1, 4), np.uint8)]
    found = heat_on_person(heat, part_maps, background=0)
    assert (found.heat, found.pixels) == pytest.approx((3 / 4, 2 / 3))
    assert heat_on_person(heat, [None] * 3, background=0) is None


def test_an_overlay_keeps_the_picture_and_marks_the_heat():
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed ([report])")
    crop = np.full((4, 4, 3), 128, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 1
    blended = overlaid(crop, heat)
    assert blended.dtype == np.uint8
    assert blended[0, 0, 0] > blended[0, 0, 2]  # yellow
    assert blended[3, 3, 2] > blended[3, 3, 1]  # violet
