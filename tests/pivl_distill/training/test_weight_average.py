"""The average of weights over steps, and statistics of batch norms that fit it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.config import Stage2Settings
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.runs.run import Run
from pivl_distill.training import weight_average
from pivl_distill.training.stage2 import train
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.weight_average import WeightAverage
from stubs import MapStub


def small_model() -> EmbeddingModel:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
    network.append(nn.Flatten())
    return EmbeddingModel("small", network.eval(), (128, 64), (0.5,) * 3, (0.25,) * 3)


def take_random_steps(model: EmbeddingModel, count: int, *averages: WeightAverage) -> list[dict]:
    """Change the weights at random; return them after each step."""
    history = []
    for _ in range(count):
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.add_(torch.randn_like(parameter))
        for average in averages:
            average.update()
        history.append({n: p.detach().clone() for n, p in model.network.named_parameters()})
    return history


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_is_that_of_all_steps_with_a_growing_decay(decay: float) -> None:
    model = small_model()
    average = WeightAverage(model, decay)
    history = take_random_steps(model, 12, average)
    for name, value in average.module.named_parameters():
        expected = history[0][name]
        for step, weights in enumerate(history[1:], start=1):
            kept = min(decay, (1 + step) / (10 + step))
            expected = kept * expected + (1 - kept) * weights[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def statistics_of(crops: np.ndarray, network: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return mean and unbiased variance [4] of the convolution's output over all crops' cells."""
    images = (torch.from_numpy(crops).float() / 255 - 0.5) / 0.25
    maps = network[0](images.permute(0, 3, 1, 2))
    return maps.mean((0, 2, 3)), maps.transpose(0, 1).flatten(1).var(1)


def test_statistics_are_means_over_batches_of_the_training_crops(
    band_store: CropStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_average, "BATCH_SIZE", 8)
    model = small_model()
    average = WeightAverage(model, 0.9)
    take_random_steps(model, 3, average)
    before = copy.deepcopy(model.network.state_dict())
    averaged = average.averaged_model(model, band_store)
    batches = [statistics_of(band_store.crops[n : n + 8], averaged.network) for n in (0, 8, 16)]
    for name, values in zip(
        ("running_mean", "running_var"), zip(*batches, strict=True), strict=True
    ):
        expected = torch.stack(values).mean(0)
        torch.testing.assert_close(
            getattr(averaged.network[1], name), expected, rtol=1e-4, atol=1e-5
        )
    assert not averaged.network.training
    assert not averaged.network[1].training
    assert all(torch.equal(v, before[n]) for n, v in model.network.state_dict().items())
    for name, value in average.module.named_parameters():
        assert torch.equal(value, averaged.network.get_parameter(name))


def test_statistics_use_evenly_spread_crops(
    band_store: CropStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_average, "RESTATED_CROPS", 4)
    model = small_model()
    averaged = WeightAverage(model, 0.9).averaged_model(model, band_store)
    means, _ = statistics_of(band_store.crops[[0, 8, 15, 23]], averaged.network)
    torch.testing.assert_close(averaged.network[1].running_mean, means, rtol=1e-4, atol=1e-5)


def test_resume_continues_the_average_exactly() -> None:
    models = [small_model(), small_model()]
    averages = [WeightAverage(model, 0.9) for model in models]
    torch.manual_seed(1)
    take_random_steps(models[0], 7, averages[0])
    models[1].network.load_state_dict(models[0].network.state_dict())
    averages[1].load_state_dict(averages[0].state_dict())
    for model, average in zip(models, averages, strict=True):
        torch.manual_seed(2)
        take_random_steps(model, 4, average)
    for name, value in averages[0].module.named_parameters():
        assert torch.equal(value, averages[1].module.get_parameter(name))


def test_training_returns_the_average_and_leaves_the_network_its_weights(
    band_store: CropStore, tmp_path: Path
) -> None:
    weights = {}
    for decay in (0.0, 0.9):
        settings = Stage2Settings(
            epochs=2, identities_per_batch=3, crops_per_identity=2, average_decay=decay
        )
        network, run = MapStub(8, 6), Run.create("student", "", tmp_path / str(decay))
        model = train(network, band_store, Supervision(), settings, 0, run, "Training")
        weights[decay] = network.encoder.weight
        returned = model.network[0].weight
        assert torch.equal(returned, network.encoder.weight) == (decay == 0)
    assert torch.equal(weights[0.0], weights[0.9])
