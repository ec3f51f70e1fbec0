"""From crops to embeddings: preprocessing, order, and a replaced forward function."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.models.embedding import EmbeddingModel, embed, normalize_crops, vector_space

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def model() -> EmbeddingModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 3, 5), nn.BatchNorm1d(5), nn.Dropout())
    return EmbeddingModel("linear", network, (8, 4), MEAN, STD)


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (11, 8, 4, 3), dtype=np.uint8)


def test_crops_are_scaled_then_normalised_per_channel(model, crops):
    images = model.preprocess(crops)
    assert images.shape == (11, 3, 8, 4)
    assert images.dtype == torch.float32
    for channel in range(3):
        expected = (crops[..., channel] / 255 - MEAN[channel]) / STD[channel]
        np.testing.assert_allclose(images[:, channel].numpy(), expected, atol=1e-6)
    assert torch.equal(images, normalize_crops(torch.from_numpy(crops), MEAN, STD))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 128])
def test_features_keep_the_order_of_the_crops_for_any_batch_size(model, crops, batch_size):
    features = embed(model, crops, batch_size=batch_size)
    assert features.shape == (11, 5)
    assert features.dtype == np.float32
    for number, crop in enumerate(crops):
        expected = model.network.eval()(model.preprocess(crop[None]))[0].detach()
        np.testing.assert_allclose(features[number], expected, atol=1e-5)


def test_embed_changes_no_weight_or_statistic(model, crops):
    model.network.train()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    features = embed(model, crops)
    np.testing.assert_array_equal(features, embed(model, crops))
    assert not model.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_replaced_forward_has_the_same_preprocessing(model, crops):
    batches = []

    def artifact(images):
        batches.append(images)
        return images.mean((2, 3)).half()

    features = embed(model, crops, forward=artifact, batch_size=6)
    assert [len(images) for images in batches] == [6, 5]
    assert torch.equal(torch.cat(batches), model.preprocess(crops))
    assert features.shape == (11, 3)
    assert features.dtype == np.float32


def test_a_network_without_parameters_is_accepted(crops):
    model = EmbeddingModel("pixels", nn.Flatten(), (8, 4), MEAN, STD)
    assert embed(model, crops).shape == (11, 96)


def test_the_space_depends_on_weights_preprocessing_and_nothing_else() -> None:
    model = small_model()
    space = vector_space(model)
    assert space == vector_space(replace(model, name="other", pooling="x"))
    renamed = nn.Sequential(OrderedDict(other=model.network))
    assert space == vector_space(replace(model, network=renamed))
    heavier = copy.deepcopy(model.network)
    next(heavier.parameters()).data += 1
    changed = [
        replace(model, network=heavier),
        replace(model, mean=(0.5, 0.5, 0.4)),
        replace(model, size_hw=(8, 16)),
    ]
    assert len({space, *map(vector_space, changed)}) == 4
    compatible = vector_space(replace(model, compatible_with=("a" * 32,)))
    assert (compatible.id, compatible.compatible_with) == (space.id, ("a" * 32,))


def test_the_space_of_a_network_with_cameras() -> None:
    class Network(nn.Module):
        def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
            return images.mean((2, 3)) + cameras[:, None]

    model = EmbeddingModel("c", Network(), (4, 2), (0.5,) * 3, (0.5,) * 3, cameras=2)
    assert vector_space(model) != vector_space(replace(model, cameras=3))


def small_model() -> EmbeddingModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return EmbeddingModel("small", network, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
