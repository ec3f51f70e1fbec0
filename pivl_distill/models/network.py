"""What a network looks like while it learns to re-identify, teacher or student alike.

A `ReIDNetwork` is a bare network inside a shell that exists in training only: batch-norm necks with
identity classifiers, a projection into the joint space, the fusion head. It works in two steps.
`encode` is nearly all of the work and looks at each crop by itself, perhaps in half precision;
`forward_heads` are small, in full precision, and look at the whole batch. What leaves training is
`embedding_model()`, the bare network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pivl_distill.distributed.collectives import all_gather
from pivl_distill.distributed.process_group import world_size
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.fused_map import FusedMap


@dataclass(frozen=True)
class EncoderOutput:
    """What a network makes of each of B crops by itself."""

    features: tuple[Tensor, ...]
    """[B, F_i] features that the triplet loss compares and the heads read."""
    cells: Tensor | None = None
    """[B, C, h, w] what the fusion head makes of a crop; None where nothing is aligned."""

    def tensors(self) -> list[Tensor]:
        """All of them, each with the crops first."""
        return [*self.features] if self.cells is None else [*self.features, self.cells]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EncoderOutput:
        """The same with other `tensors`, in the same order."""
        features, rest = tensors[: len(self.features)], tensors[len(self.features) :]
        return EncoderOutput(tuple(features), rest[0] if rest else None)


@dataclass(frozen=True)
class ReIDOutput:
    """What the losses of Eq. 12 look at, for a batch of B crops."""

    features: tuple[Tensor, ...]
    """[B, F_i] features that the triplet loss compares."""
    logits: tuple[Tensor, ...]
    """[B, C] identity scores, one for each classifier."""
    projected: Tensor | None
    """[B, D] the crop in the joint space (Eq. 3); None without a bank."""
    aligned: FusedMap | None
    """[B, D, h, w] fused features (Eq. 10); None where nothing is aligned."""
    distilled_embedding: Tensor | None = None
    """[B, F] the crop in the space of a teacher's vectors; None without them."""

    def all_gathered(self, crops: int) -> ReIDOutput:
        """This process's share of an output with the vectors of the whole batch, but its own maps.

        `crops` is how many the batch has. In a single process this is the output itself.
        """
        if world_size() == 1:
            return self

        def of_all(own: Tensor | None) -> Tensor | None:
            return None if own is None else all_gather(own, crops)

        return ReIDOutput(
            features=tuple(all_gather(own, crops) for own in self.features),
            logits=tuple(all_gather(own, crops) for own in self.logits),
            projected=of_all(self.projected),
            aligned=self.aligned,
            distilled_embedding=of_all(self.distilled_embedding),
        )


class ReIDNetwork(nn.Module, ABC):
    """A network in training. `size_hw`, `mean` and `std` say what it is fed.

    Where `cameras` is not 0, it has a vector for each camera and takes the crops' own as well.
    """

    size_hw: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    cameras: int = 0
    half_precision: torch.dtype | None = None
    """The half precision that crops are encoded in, by autocast; None for full precision."""

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
        """Normalised images [B, 3, H, W], and cameras int64 [B] where wanted → `ReIDOutput`."""
        return self.forward_heads(self.encode(images, cameras))

    def encode(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        """What each crop is by itself, in full precision whatever it was computed in."""
        if self.half_precision is None:
            return self.forward_features(images, cameras)
        with torch.autocast(images.device.type, self.half_precision):
            encoded = self.forward_features(images, cameras)
        return encoded.with_tensors([tensor.float() for tensor in encoded.tensors()])

    @abstractmethod
    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        """`encode` without its precision."""

    @abstractmethod
    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        """Necks, classifiers and projections."""

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The part that is worth compiling: all but heads."""

    def checkpoint_blocks(self) -> None:
        """Keep only what enters each transformer block and compute the rest again for gradients.

        PivlError where there are no such blocks.
        """
        raise PivlError(
            f"{type(self).__name__} has no transformer blocks to checkpoint; set"
            " stage2.checkpointing to false, and stage2.accumulate higher to save memory."
        )

    @abstractmethod
    def embedding_model(self) -> EmbeddingModel:
        """The bare network: no neck, no classifier, no head."""


class BNNeck(nn.Module):
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
