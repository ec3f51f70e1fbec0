"""Training metrics are means over the steps of an epoch."""

from __future__ import annotations

import torch

from pivl_distill.training.metrics import MetricAverages


def test_averages_are_means_over_steps():
    totals = MetricAverages()
    for value in (1.0, 2.0, 6.0):
        totals.add({"loss": torch.tensor(value, requires_grad=True)})
    assert totals.mean() == {"loss": 3.0}
