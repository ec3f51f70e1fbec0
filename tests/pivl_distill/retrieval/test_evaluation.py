"""Evaluation of a model on the query and gallery of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import evaluation
from pivl_distill.retrieval.evaluation import embed_query_gallery, evaluate_features, evaluate_model

SIZE_HW = (16, 8)


@pytest.fixture
def test_crops(tmp_path: Path):
    """Four people, each of one colour: queries from camera 0, gallery from camera 1."""
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10)]
    splits: list[list[Record]] = [[], []]
    for camid, split in enumerate(splits):
        for pid, colour in enumerate(colours):
            path = tmp_path / f"{camid}_{pid}.png"
            Image.new("RGB", (8, 16), tuple(value - camid for value in colour)).save(path)
            split.append(Record(path, pid, camid))
    query, gallery = map(tuple, splits)
    dataset = ReIDDataset("colours", tmp_path, train=query, query=query, gallery=gallery)
    return evaluation.QueryGalleryCrops.load(dataset, SIZE_HW)


def test_query_and_gallery_are_read_without_maps(test_crops):
    for camid, store in enumerate((test_crops.query, test_crops.gallery)):
        assert store.crops.shape == (4, *SIZE_HW, 3)
        assert store.maps is None
        np.testing.assert_array_equal(store.camids, camid)


def test_model_that_separates_colours_has_perfect_map(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert evaluate_model(model, test_crops).summary()["mAP"] == pytest.approx(1)


def test_forward_replaces_the_network(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    query = model.preprocess(test_crops.query.crops)

    def wrong_answers(images: torch.Tensor) -> torch.Tensor:
        return torch.eye(4) if torch.equal(images, query) else torch.eye(4).roll(1, dims=0)

    features = embed_query_gallery(model, test_crops, forward=wrong_answers)
    np.testing.assert_array_equal(features.query, np.eye(4))
    np.testing.assert_array_equal(features.gallery, np.eye(4)[[3, 0, 1, 2]])
    assert evaluate_features(features, test_crops).summary()["mAP"] < 0.6


def test_unknown_cameras_are_scored_without_the_camera_rule(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    gallery = replace(test_crops.gallery, camids=test_crops.query.camids)
    one_camera = evaluation.QueryGalleryCrops(test_crops.query, gallery)
    with pytest.raises(PivlError, match="under another camera"):
        evaluate_model(model, one_camera)
    unknown = evaluation.QueryGalleryCrops(replace(test_crops.query, camids=None), gallery)
    result = evaluate_model(model, unknown)
    assert result.mAP == pytest.approx(1)
    assert not result.camera_rule
