"""Training metrics: averages over one epoch, and what is measured of a batch besides its loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACCURACY, GRADIENT_NORM, FEATURE_SPREAD = "accuracy", "gradient_norm", "feature_spread"
MEASURES = frozenset({ACCURACY, GRADIENT_NORM, FEATURE_SPREAD})
"""Values that a step reports besides the terms of its loss."""


@torch.no_grad()
def feature_spread(features: Tensor) -> Tensor:
    """Return how much features [B, F] differ in direction: 0 if all are equal, 1 if unrelated.

    It is the variance of the features after normalisation to unit length, which is 1 minus their
    mean pairwise cosine, times (B − 1) / B. It is 0 if all features are zero, and 1 for a batch of
    one crop.
    """
    if len(features) < 2:
        return features.new_ones(())
    unit = F.normalize(features, dim=1)
    variance = (unit - unit.mean(0)).square().sum(1).mean()
    length = unit.square().sum(1).mean()
    return variance / length.clamp(min=torch.finfo(length.dtype).tiny)


class MetricAverages:
    """Running means of one epoch's loss terms and training accuracy."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Reset at the start of an epoch."""
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add the values of one step, without synchronising with the device."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value.detach()
        self.count += 1

    def mean(self) -> dict[str, float]:
        """Return the means over the steps added so far, rounded to five decimals."""
        return {name: round((total / self.count).item(), 5) for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the running sums, to resume an interrupted epoch."""
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore running sums from `state_dict`."""
        self.sums, self.count = state["sums"], state["count"]
