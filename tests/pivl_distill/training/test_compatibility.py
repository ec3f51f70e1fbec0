"""Terms of compatible training equal plain loops, values and gradients, in double precision."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from equation_loops import assert_same, dot, mean, norm, normal
from pivl_distill.config import CompatibilitySettings
from pivl_distill.errors import PivlError
from pivl_distill.models.network import ReIDOutput
from pivl_distill.training.compatibility import (
    GalleryTargets,
    compatibility_terms,
    gallery_classification_loss,
    gallery_regression_loss,
)

TAU = 0.2
LABELS = torch.tensor([0, 2, 1, 0])


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return dot(one, other) / (norm(one) * norm(other))


def classification(features: Tensor, means: Tensor, tau: float) -> Tensor:
    """−log of the share of the own identity among exp(cos / τ)."""
    rows = []
    for feature, label in zip(features, LABELS.tolist(), strict=True):
        scores = [(cosine(feature, m) / tau).exp() for m in means]
        rows.append(-(scores[label] / torch.stack(scores).sum()).log())
    return mean(rows)


def test_gallery_classification_loss() -> None:
    features, raw = normal(4, 5), normal(3, 5, seed=1)
    means = torch.stack([m / norm(m) for m in raw])
    actual = gallery_classification_loss(features, means, LABELS, TAU)
    assert_same(actual, classification(features, means, TAU), features)


def test_gallery_regression_loss_is_relative_to_the_spread() -> None:
    features, vectors = normal(4, 5), normal(4, 5, seed=1)
    units = [v / norm(v) for v in vectors]
    gaps = [f / norm(f) - u for f, u in zip(features, units, strict=True)]
    expected = mean([dot(gap, gap) for gap in gaps]) / 0.4
    actual = gallery_regression_loss(features, torch.stack(units), 0.4)
    assert_same(actual, expected, features)


def test_targets_are_unit_vectors_their_means_and_their_spread() -> None:
    vectors = normal(4, 5).detach()
    targets = GalleryTargets.prepare(vectors, LABELS, CompatibilitySettings())
    unit = torch.stack([v / norm(v) for v in vectors])
    torch.testing.assert_close(targets.vectors, unit)
    for label in range(3):
        total = unit[label == LABELS].sum(0)
        torch.testing.assert_close(targets.means[label], total / norm(total))
    centre = unit.sum(0) / 4
    gaps = [u - centre for u in unit]
    assert targets.spread == pytest.approx(float(mean([dot(gap, gap) for gap in gaps])))
    with pytest.raises(PivlError, match="nearly the same vector"):
        GalleryTargets.prepare(torch.ones(4, 5), LABELS, CompatibilitySettings())


def test_terms_have_their_weights_and_use_the_rows_of_the_batch() -> None:
    vectors, features = normal(6, 5, seed=1).detach(), normal(4, 5)
    index, every = torch.tensor([5, 0, 3, 5]), torch.tensor([1, 0, 2, 1, 2, 0])
    settings = CompatibilitySettings(regression=2.0, classification=3.0, temperature=TAU)
    targets = GalleryTargets.prepare(vectors, every, settings)
    output = ReIDOutput((features,), (features,), None, None)
    terms = compatibility_terms(output, index, LABELS, targets)
    rows = zip(features, index.tolist(), strict=True)
    gaps = [2 - 2 * cosine(feature, vectors[row]) for feature, row in rows]
    assert_same(terms["gallery_regression"], 2 * mean(gaps) / targets.spread, features)
    expected = 3 * classification(features, targets.means, TAU * targets.spread)
    assert_same(terms["gallery_classification"], expected, features)


def test_a_term_without_weight_is_left_out() -> None:
    features = normal(4, 5)
    output = ReIDOutput((features,), (features,), None, None)
    for name, other in (("regression", "classification"), ("classification", "regression")):
        settings = CompatibilitySettings.model_validate({name: 0})
        targets = GalleryTargets.prepare(features.detach(), LABELS, settings)
        terms = compatibility_terms(output, torch.arange(4), LABELS, targets)
        assert list(terms) == [f"gallery_{other}"]


def test_a_network_without_any_term_is_refused() -> None:
    with pytest.raises(ValidationError, match="one of them needs a weight"):
        CompatibilitySettings(network="old", regression=0, classification=0)
