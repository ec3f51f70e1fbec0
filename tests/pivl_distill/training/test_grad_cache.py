"""GradCache gives the loss and gradients of the full batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pivl_distill.config import HeadSettings, LossSettings, Stage2Settings
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.grad_cache import GradCache
from pivl_distill.training.objective import loss_terms
from pivl_distill.training.supervision import Supervision
from pivl_distill.training.trainer import Stage2Trainer
from stubs import PyramidStub

IDENTITIES, DIM, CROPS = 6, 16, 8
LABELS = torch.tensor([0, 0, 1, 1, 3, 3, 4, 4])


def stub(last: nn.Module | None = None, dropout: float = 0.0) -> PyramidStub:
    return PyramidStub(IDENTITIES, DIM, last, dropout)


@pytest.fixture
def text_features(prompt_bank) -> TextFeatures:
    text_features = TextFeatures.from_bank(prompt_bank, LossSettings(), HeadSettings())
    return dataclasses.replace(
        text_features, identity=text_features.identity.double(), part=text_features.part.double()
    )


def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(CROPS, 3, 128, 64, generator=generator, dtype=torch.float64)
    return [images, torch.arange(CROPS) % 2]


def loss_of(output: ReIDOutput, text_features: TextFeatures, maps, **loss: object) -> Tensor:
    terms = loss_terms(output, LABELS, maps, text_features, LossSettings(**loss))
    return torch.stack(list(terms.values())).sum()


def gradients(network: PyramidStub) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("distance", ["cosine", "mse", "contrastive"])
def test_micro_batches_give_the_loss_and_gradients_of_the_full_batch(
    text_features, band_store, parts, distance
):
    maps = torch.from_numpy(band_store.maps[:CROPS])
    loss = {"align_distance": distance, "triplet_margin": 3.0}
    full, split = stub().double().train(), stub().double().train()
    expected = loss_of(full(*inputs()), text_features, maps, **loss)
    expected.backward()
    batch = GradCache(split, inputs(), parts)
    actual = loss_of(split.forward_heads(batch.encoded), text_features, maps, **loss)
    actual.backward()
    batch.backward()
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    for name, gradient in gradients(full).items():
        assert gradient.abs().max() > 1e-6, name
        torch.testing.assert_close(gradients(split)[name], gradient, rtol=1e-9, atol=1e-9)


def test_mining_uses_the_full_batch(text_features, band_store):
    """Mining in each micro-batch separately would give a different loss."""
    network, maps = stub().double().train(), torch.from_numpy(band_store.maps)
    loss = LossSettings(triplet_margin=3)

    def triplet(output: ReIDOutput, rows: slice) -> Tensor:
        return loss_terms(output, LABELS[rows], maps[rows], text_features, loss)["triplet"]

    encoded = GradCache(network, inputs(), 2).encoded
    full = triplet(network.forward_heads(encoded), slice(0, 8))
    halves = [
        triplet(network(*(tensor[rows] for tensor in inputs())), rows)
        for rows in (slice(0, 4), slice(4, 8))
    ]
    assert abs(torch.stack(halves).mean() - full) > 1e-3


def test_dropout_is_the_same_in_both_passes(text_features, band_store):
    network, maps = stub(dropout=0.4).double().train(), torch.from_numpy(band_store.maps[:CROPS])
    outputs = []
    network.dropout.register_forward_hook(
        lambda _module, _inputs, out: outputs.append(out.detach())
    )
    torch.manual_seed(3)
    batch = GradCache(network, inputs(), 2)
    after_first = torch.rand(1)
    torch.manual_seed(3)
    outputs.clear()
    batch = GradCache(network, inputs(), 2)
    first_pass, count = list(outputs), len(outputs)
    loss_of(network.forward_heads(batch.encoded), text_features, maps).backward()
    batch.backward()
    for one, other in zip(first_pass, outputs[count:], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.rand(1), after_first)  # later random numbers are unchanged


def test_running_statistics_are_updated_once_per_step(text_features, band_store):
    norm = nn.BatchNorm2d(3)
    network = stub(norm).double().train()
    before = norm.running_mean.clone()
    batch = GradCache(network, inputs(), 2)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, before)
    maps = torch.from_numpy(band_store.maps[:CROPS])
    loss_of(network.forward_heads(batch.encoded), text_features, maps).backward()
    batch.backward()
    assert norm.num_batches_tracked == 2
    assert network.neck.norm.num_batches_tracked == 1


def test_accumulation_does_not_change_a_training_step(text_features, band_store):
    weights = []
    for parts in (1, 3):
        settings = Stage2Settings(
            identities_per_batch=4, crops_per_identity=2, accumulate=parts, learning_rate=0.01
        )
        network = stub().train()
        single = dataclasses.replace(
            text_features, identity=text_features.identity.float(), part=text_features.part.float()
        )
        stage = Stage2Trainer(network, band_store, Supervision(texts=single), settings)
        terms = stage.step(np.arange(CROPS), np.random.default_rng(0), 0.5)
        weights.append(({n: v.item() for n, v in terms.items()}, network.state_dict()))
    (full_terms, full), (split_terms, split) = weights
    assert split_terms == pytest.approx(full_terms, abs=1e-5)
    for name, value in full.items():
        torch.testing.assert_close(split[name], value, rtol=1e-3, atol=1e-4)
