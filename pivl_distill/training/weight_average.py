"""Exponential moving average of the deployed network's weights, evaluated in their place."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from pivl_distill.data.batches import DeviceArray
from pivl_distill.data.store import CropStore
from pivl_distill.models.embedding import EmbeddingModel, normalize_crops

Tensors = tuple[Tensor, ...] | list[Tensor]

RESTATED_CROPS = 2_000
"""Training crops that re-estimate the statistics of batch norms."""
BATCH_SIZE = 100


class WeightAverage(AveragedModel):
    """The average of a network's weights over training steps.

    The decay of step t, from 0, is min(decay, (1 + t) / (10 + t)), so that random initial weights
    are soon forgotten. Statistics of batch norms are not averaged; `model` re-estimates them.
    """

    def __init__(self, model: EmbeddingModel, decay: float) -> None:
        super().__init__(model.network, multi_avg_fn=self._average)
        self.decay, self._trained = decay, [model.network]  # a list, to register no submodule

    def update(self) -> None:
        """Add the weights after a step to the average."""
        self.update_parameters(self._trained[0])

    @torch.no_grad()
    def _average(self, averages: Tensors, weights: Tensors, _: Tensor | int) -> None:
        step = int(self.n_averaged)  # on the host; the argument is a copy on the device
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def averaged_model(self, model: EmbeddingModel, store: CropStore) -> EmbeddingModel:
        """Return a copy of `model` with the averaged weights.

        The statistics of its batch norms are the means over up to `RESTATED_CROPS` crops of the
        store, evenly spread and not augmented.
        """
        network = copy.deepcopy(self.module)
        averaged = replace(model, network=network)
        update_bn(_batches(averaged, store), network, model.device)
        network.eval()
        return averaged


def _batches(model: EmbeddingModel, store: CropStore) -> Iterator[Tensor]:
    """Yield normalised crops [B, 3, H, W]; a last batch of a single crop is left out."""
    count = min(len(store), RESTATED_CROPS)
    rows = np.linspace(0, len(store) - 1, count).round().astype(int)
    crops = DeviceArray(store.crops, model.device)
    for start in range(0, count, BATCH_SIZE):
        batch = rows[start : start + BATCH_SIZE]
        if len(batch) > 1:
            yield normalize_crops(crops.take(batch), model.mean, model.std)
