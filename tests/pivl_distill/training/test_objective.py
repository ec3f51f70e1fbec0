"""The loss terms of Eq. 12 for one batch; `test_equations.py` recomputes them by loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.bank import PromptBank
from pivl_distill.config import (
    HeadSettings,
    LossSettings,
)
from pivl_distill.losses import identity_loss, triplet_loss
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.alignment import TextFeatures
from pivl_distill.training.metrics import MetricAverages
from pivl_distill.training.objective import loss_terms
from stubs import MapStub

IDENTITIES, DIM = 6, 16
TERMS = {"identity", "triplet", "image_to_text", "align"}


def stub() -> MapStub:
    return MapStub(32, IDENTITIES, dim=DIM, aligns=True)


@pytest.fixture
def text_features(prompt_bank: PromptBank) -> TextFeatures:
    return TextFeatures.from_bank(prompt_bank, LossSettings(text_scale=10.0), HeadSettings())


def test_the_terms_are_the_weighted_losses_of_every_head(text_features, band_store):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1])
    features = tuple(torch.randn(4, dim, generator=generator) for dim in (5, 8))
    logits = tuple(torch.randn(4, IDENTITIES, generator=generator) for _ in range(2))
    projected = torch.randn(4, DIM, generator=generator)
    aligned = torch.randn(4, DIM, 16, 8, generator=generator)
    output = ReIDOutput(features, logits, projected, FusedMap(aligned))
    maps = torch.from_numpy(band_store.maps[:4])

    def terms(**weights: float) -> dict[str, Tensor]:
        return loss_terms(output, labels, maps, text_features, LossSettings(**weights))

    once = terms(identity=1, triplet=1, image_to_text=1, align=1)
    assert once.keys() == TERMS
    identity = sum(identity_loss(scores, labels, 0.1) for scores in logits)
    triplet = sum(triplet_loss(features, labels, 0.3, normalize=True) for features in features)
    torch.testing.assert_close(once["identity"], identity)
    torch.testing.assert_close(once["triplet"], triplet)
    expected = F.cross_entropy(projected @ text_features.identity.T, labels, label_smoothing=0.1)
    torch.testing.assert_close(once["image_to_text"], expected)
    weighted = terms(identity=0.25, triplet=2, image_to_text=3, align=5)
    for name, weight in {"identity": 0.25, "triplet": 2, "image_to_text": 3, "align": 5}.items():
        torch.testing.assert_close(weighted[name], weight * once[name])


def test_alignment_pulls_each_cell_to_its_own_text(text_features, band_store):
    labels = torch.tensor([0, 1, 3, 4])
    maps = torch.from_numpy(band_store.maps[:4])
    parts = maps[:, 4::8, 4::8].long()
    matching = text_features.part[labels[:, None, None], parts].permute(0, 3, 1, 2)
    output = ReIDOutput((torch.eye(4),), (torch.zeros(4, 6),), None, FusedMap(matching))
    perfect = loss_terms(output, labels, maps, text_features, LossSettings())
    swapped = loss_terms(output, labels.flip(0), maps, text_features, LossSettings())
    assert perfect["align"].item() == pytest.approx(0, abs=1e-5)
    assert swapped["align"].item() > 1


@pytest.mark.parametrize("distance", ["cosine", "mse", "smooth_l1"])
@pytest.mark.parametrize("labels", ["majority", "nearest", "soft"])
def test_losses_never_synchronise_with_the_device(text_features, band_store, distance, labels):
    """The meta device has no values, so reading one would fail."""
    meta = torch.device("meta")
    settings = LossSettings(align_distance=distance, align_labels=labels)
    network, totals = stub().to(meta).train(), MetricAverages()
    output = network(torch.zeros(8, 3, 128, 64, device=meta))
    people = torch.zeros(8, dtype=torch.long, device=meta)
    maps = torch.zeros(8, 128, 64, dtype=torch.uint8, device=meta)
    terms = loss_terms(output, people, maps, text_features.to(meta), settings)
    assert terms.keys() == TERMS
    torch.stack(list(terms.values())).sum().backward()
    totals.add(terms)
    assert network.encoder.weight.grad is not None
