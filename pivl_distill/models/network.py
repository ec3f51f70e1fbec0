"""The training interface of a ReID network, teacher or student: `ReIDNetwork`.

It wraps a backbone in parts that exist in training only: batch-norm necks with identity
classifiers, a projection into the joint space, the fusion head. A forward pass has two steps.
`encode` does nearly all of the work, on each crop separately and optionally in half precision;
`forward_heads` is cheap, runs in float32 and sees the whole batch. `embedding_model()` returns the
backbone alone, which is evaluated, saved and exported.
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
    """What `encode` computes for B crops, each independent of the others."""

    features: tuple[Tensor, ...]
    """[B, F_i], compared by the triplet loss and read by the heads."""
    cells: Tensor | None = None
    """[B, C, h, w], output of `factorised_fusion.encode_cells`; None without a fusion head."""
    final_map: Tensor | None = None
    """[B, C', h', w'], the last map before pooling; None without part classification."""

    def tensors(self) -> list[Tensor]:
        """Return all tensors; their first dimension is the batch."""
        maps = (self.cells, self.final_map)
        return [*self.features, *(tensor for tensor in maps if tensor is not None)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> EncoderOutput:
        """Return an output of the same structure with `tensors`, in the order of `tensors()`."""
        remaining = iter(tensors)
        features = tuple(next(remaining) for _ in self.features)
        cells = None if self.cells is None else next(remaining)
        return EncoderOutput(features, cells, None if self.final_map is None else next(remaining))


@dataclass(frozen=True)
class ReIDOutput:
    """The inputs of the losses of Eq. 12, for a batch of B crops."""

    features: tuple[Tensor, ...]
    """[B, F_i], compared by the triplet loss."""
    logits: tuple[Tensor, ...]
    """[B, C], one tensor per identity classifier."""
    projected: Tensor | None
    """[B, D] features in the joint space (Eq. 3); None without a bank."""
    aligned: FusedMap | None
    """[B, D, h, w] fused features (Eq. 10); None without a fusion head."""
    distilled_embedding: Tensor | None = None
    """[B, F] features in the space of the teacher embeddings; None without them."""
    final_map: Tensor | None = None
    """[B, C', h', w'], the last map before pooling; None without part classification."""

    def all_gathered(self, batch_size: int) -> ReIDOutput:
        """Gather the rows of all processes into the `batch_size` rows of the whole batch.

        `aligned` and `final_map` stay this process's share: maps are too large to exchange.
        """
        if world_size() == 1:
            return self

        def gather(local: Tensor | None) -> Tensor | None:
            return None if local is None else all_gather(local, batch_size)

        return ReIDOutput(
            features=tuple(all_gather(local, batch_size) for local in self.features),
            logits=tuple(all_gather(local, batch_size) for local in self.logits),
            projected=gather(self.projected),
            aligned=self.aligned,
            distilled_embedding=gather(self.distilled_embedding),
            final_map=self.final_map,
        )


class ReIDNetwork(nn.Module, ABC):
    """A network in training."""

    size_hw: tuple[int, int]
    """Height and width of its input in pixels."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """`mean` and `std` per RGB channel, for pixels in 0..1."""
    cameras: int = 0
    """Number of cameras with an embedding (SIE); 0 for a network that ignores cameras."""
    half_precision: torch.dtype | None = None
    """The dtype of `encode` under autocast; None for float32."""

    def __init__(self) -> None:
        super().__init__()
        self.part_project: nn.Linear | None = None
        """Projects features of the final map into the joint space, for part classification."""

    def forward(self, images: Tensor, cameras: Tensor | None = None) -> ReIDOutput:
        """Normalised images [B, 3, H, W] and, if `self.cameras`, camera ids int64 [B] → outputs."""
        return self.forward_heads(self.encode(images, cameras))

    def encode(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        """Run `forward_features` in `half_precision`; the output is always float32."""
        if self.half_precision is None:
            return self.forward_features(images, cameras)
        with torch.autocast(images.device.type, self.half_precision):
            encoded = self.forward_features(images, cameras)
        return encoded.with_tensors([tensor.float() for tensor in encoded.tensors()])

    @abstractmethod
    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        """Compute what depends on one crop alone: backbone and `encode_cells`."""

    @abstractmethod
    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        """Apply necks, classifiers, projections and `fuse` to the whole batch."""

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The submodule to compile: the backbone without heads."""

    def enable_gradient_checkpointing(self) -> None:
        """Store only the input of each transformer block and recompute the rest in backward.

        Raises PivlError if the network has no transformer blocks.
        """
        raise PivlError(
            f"{type(self).__name__} has no transformer blocks to checkpoint; set"
            " stage2.checkpointing to false, and raise stage2.accumulate to save memory."
        )

    @abstractmethod
    def embedding_model(self) -> EmbeddingModel:
        """Return the backbone alone, without necks, classifiers and fusion head."""


class BNNeck(nn.Module):
    """Batch norm without a bias, then a classifier without a bias (Luo et al. 2019)."""

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

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Return weight [C, F] and bias [C] of the same map in evaluation mode."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = self.classifier.weight * scale
        bias = self.classifier.weight @ norm.bias - weight @ norm.running_mean
        return weight.detach(), bias.detach()
