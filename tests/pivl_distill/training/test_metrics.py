"""Training metrics are means over the steps of an epoch; the spread of features is one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pivl_distill.training.metrics import MetricAverages, feature_spread


def test_averages_are_means_over_steps():
    totals = MetricAverages()
    for value in (1.0, 2.0, 6.0):
        totals.add({"loss": torch.tensor(value, requires_grad=True)})
    assert totals.mean() == {"loss": 3.0}


def test_feature_spread_is_one_minus_the_mean_cosine():
    features = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) + 0.5
    cosines = F.normalize(features) @ F.normalize(features).T
    assert feature_spread(features).item() == pytest.approx(1 - cosines.mean().item(), abs=1e-6)
    assert feature_spread(features[:1]) == 1


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e30])
def test_features_of_one_direction_have_no_spread(scale):
    lengths = torch.linspace(1, 2, 5)[:, None]
    assert feature_spread(scale * lengths * torch.ones(5, 8)) < 1e-6
