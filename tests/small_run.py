"""A small network, and the settings of a short training run for it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pivl_distill.config import Stage2Settings
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput

SETTINGS = Stage2Settings(epochs=3, identities_per_batch=6, crops_per_identity=1)
STEPS_PER_EPOCH = 4
"""Each of the six identities of `band_store` has four crops."""
STEPS = SETTINGS.epochs * STEPS_PER_EPOCH


class SmallNetwork(ReIDNetwork):
    """A convolution, whose weights are not contiguous in memory, dropout and batch norm."""

    size_hw = (128, 64)
    mean = std = (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 5, stride=8)
        self.dropout = nn.Dropout(0.3)
        self.neck = BNNeck(8, 6)

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        return EncoderOutput((self.dropout(self.patches(images).relu().mean((2, 3))),))

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,) = encoded.features
        return ReIDOutput((feature,), (self.neck(feature),), None, None)

    @property
    def body(self) -> nn.Module:
        return self.patches

    def embedding_model(self) -> EmbeddingModel:
        raise NotImplementedError
