"""Retrieval of a model on a data set, and the choice of a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.device import pick_device
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.retrieval import evaluation
from pivl_distill.retrieval.evaluation import embed_query_gallery, evaluate_features, evaluate_model

SIZE_HW = (16, 8)


@pytest.fixture
def test_crops(tmp_path: Path):
    """Four people, each of one colour, queried under camera 0 and sought under camera 1."""
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


def test_both_sets_are_read_without_maps(test_crops):
    for camid, store in enumerate((test_crops.query, test_crops.gallery)):
        assert store.crops.shape == (4, *SIZE_HW, 3)
        assert store.maps is None
        np.testing.assert_array_equal(store.camids, camid)


def test_a_model_that_sees_colour_finds_everyone(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert evaluate_model(model, test_crops).summary()["mAP"] == pytest.approx(1)


def test_what_stands_in_for_the_network_is_what_is_measured(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    query = model.preprocess(test_crops.query.crops)

    def wrong_answers(images: torch.Tensor) -> torch.Tensor:
        return torch.eye(4) if torch.equal(images, query) else torch.eye(4).roll(1, dims=0)

    features = embed_query_gallery(model, test_crops, forward=wrong_answers)
    np.testing.assert_array_equal(features.query, np.eye(4))
    np.testing.assert_array_equal(features.gallery, np.eye(4)[[3, 0, 1, 2]])
    assert evaluate_features(features, test_crops).summary()["mAP"] < 0.6


def test_unknown_cameras_are_scored_and_told(test_crops):
    model = EmbeddingModel("pixels", nn.Flatten(), SIZE_HW, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    gallery = replace(test_crops.gallery, camids=test_crops.query.camids)
    one_camera = evaluation.QueryGalleryCrops(test_crops.query, gallery)
    with pytest.raises(PivlError, match="under another camera"):
        evaluate_model(model, one_camera)
    unknown = evaluation.QueryGalleryCrops(replace(test_crops.query, camids=None), gallery)
    result = evaluate_model(model, unknown)
    assert result.mAP == pytest.approx(1)
    assert not result.camera_rule


def test_a_missing_cuda_device_is_told_with_what_to_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PivlError, match=r"No CUDA device .* set device to 'auto' or 'cpu'"):
        pick_device("cuda")
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")


def test_auto_takes_cuda_where_it_is_and_cpu_never_does(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


def test_more_processes_than_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(process_group, "local_rank", lambda: 1)
    assert pick_device("auto").type == "cuda"
    monkeypatch.setattr(process_group, "local_rank", lambda: 2)
    with pytest.raises(PivlError, match="2 CUDA devices and more processes"):
        pick_device("cuda")
    assert pick_device("cpu").type == "cpu"
