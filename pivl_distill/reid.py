"""What a network looks like while it learns to re-identify, teacher or student alike.

A `ReIDNetwork` is a bare network inside a shell that exists in training only: batch-norm necks with
identity classifiers, a projection into the joint space, the fusion head. What leaves training is
`embedding_model()`, the bare network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from pivl_distill.embedding import EmbeddingModel


@dataclass(frozen=True)
class ReIDOutput:
    """What the losses of Eq. 12 look at, for a batch of B crops."""

    metric: tuple[Tensor, ...]
    """[B, F_i] features that the triplet loss compares."""
    logits: tuple[Tensor, ...]
    """[B, C] identity scores, one for each classifier."""
    projected: Tensor | None
    """[B, D] the crop in the joint space (Eq. 3); None without a bank."""
    aligned: Tensor | None
    """[B, D, h, w] fused features (Eq. 10); None where nothing is aligned."""
    distilled: Tensor | None = None
    """[B, F] the crop in the space of a teacher's vectors; None without them."""


class ReIDNetwork(nn.Module, ABC):
    """A network in training. `size_hw`, `mean` and `std` say what it is fed.

    Where `cameras` is not 0, it has a vector for each camera and takes the crops' own as well.
    """

    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    cameras: int = 0

    @abstractmethod
    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
        """Normalised images [B, 3, H, W], and cameras int64 [B] where wanted → `ReIDOutput`."""

    @abstractmethod
    def embedding_model(self) -> EmbeddingModel:
        """The bare network: no neck, no classifier, no head."""


class Neck(nn.Module):
    """Batch norm without a learned shift, then a bias-free classifier (BNNeck, Luo et al. 2019)."""

    def __init__(self, dim: int, identities: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(dim, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F] → logits [B, C]."""
        logits: Tensor = self.classifier(self.norm(features))
        return logits
