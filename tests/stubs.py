"""Small `ReIDNetwork`s that take the place of teachers and students in tests of what trains them.

All have random weights from a fixed seed and an `encoder`, the part that a real network keeps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.models.embedding import EmbeddingModel
from pivl_distill.models.factorised_fusion import encode_cells, fuse
from pivl_distill.models.fused_map import FusedMap
from pivl_distill.models.fusion import LateralFusion, grid_size
from pivl_distill.models.gradient_cap import fork
from pivl_distill.models.network import BNNeck, EncoderOutput, ReIDNetwork, ReIDOutput


class StubNetwork(ReIDNetwork):
    """What all stubs share; a subclass sets `encoder` and the heads."""

    size_hw = (128, 64)
    mean = std = (0.5, 0.5, 0.5)
    encoder: nn.Module

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)

    @property
    def body(self) -> nn.Module:
        return self.encoder

    def embedding_model(self) -> EmbeddingModel:
        network = nn.Sequential(self.encoder, nn.Flatten()).float().eval()
        return EmbeddingModel("stub", network, self.size_hw, self.mean, self.std)


class PixelStub(StubNetwork):
    """One linear layer on the pixels: its D outputs are feature, logits and projection."""

    def __init__(self, dim: int = 16, identities: int = 6) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * 128 * 64, dim))
        self.identities = identities

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        return EncoderOutput((self.encoder(images),))

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,) = encoded.features
        return ReIDOutput((feature,), (feature[:, : self.identities],), feature, None)


class MapStub(StubNetwork):
    """One convolution to a map [B, F, h, w], whose mean is the feature; most outputs are optional.

    It records the images that it was given.

    Args:
        features: F.
        identities: C of the classifier.
        kernel_size: of the convolution.
        stride: of the convolution.
        size_hw: height and width of a crop in pixels.
        dim: D of `projected`, and of `aligned` with `aligns`; None for neither.
        aligns: whether the map is aligned, through a 1×1 convolution.
        dropout: probability of dropout on the feature.
    """

    def __init__(
        self,
        features: int,
        identities: int,
        *,
        kernel_size: int = 8,
        stride: int = 8,
        size_hw: tuple[int, int] = (128, 64),
        dim: int | None = None,
        aligns: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size_hw = size_hw
        self.encoder = nn.Conv2d(3, features, kernel_size, stride)
        self.dropout = nn.Dropout(dropout)
        self.neck = BNNeck(features, identities)
        self.project = nn.Linear(features, dim) if dim else None
        self.align = nn.Conv2d(features, dim, 1) if dim and aligns else None
        self.recorded_images: list[Tensor] = []

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        self.recorded_images.append(images.clone())
        maps = self.encoder(images.to(next(self.parameters()).dtype)).relu()
        return EncoderOutput((self.dropout(maps.mean((2, 3))),), maps if self.align else None)

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,) = encoded.features
        return ReIDOutput(
            features=(feature,),
            logits=(self.neck(feature),),
            projected=self.project(feature) if self.project else None,
            aligned=FusedMap(self.align(encoded.cells)) if self.align else None,
        )


class PyramidStub(StubNetwork):
    """Three maps for a fusion head of `dim` dimensions, and a neck on the mean of the last.

    Args:
        identities: C of the classifier.
        dim: D of `projected` and `aligned`.
        last: a layer on the last map, such as a batch norm.
        dropout: probability of dropout on every map.
    """

    def __init__(
        self, identities: int, dim: int, last: nn.Module | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Conv2d(channels, width, stride, stride=stride)
            for channels, width, stride in ((3, 4, 4), (4, 6, 2), (6, 3, 2))
        )
        self.last = last or nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fusion = LateralFusion((4, 6, 3), dim, grid_size(self.size_hw), HeadSettings())
        self.neck = BNNeck(3, identities)
        self.project = nn.Linear(3, dim)

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        pyramid, x = [], images if cameras is None else images + cameras[:, None, None, None]
        for layer in self.encoder:
            x = self.dropout(layer(x).tanh())
            pyramid.append(x)
        feature = self.last(x).mean((2, 3))
        return EncoderOutput((feature,), encode_cells(self.fusion, tuple(pyramid)))

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        (feature,) = encoded.features
        projected, aligned = self.project(feature), fuse(self.fusion, encoded.cells)
        return ReIDOutput((feature,), (self.neck(feature),), projected, aligned)


class AllOutputsStub(StubNetwork):
    """Every output of `ReIDOutput`, in double precision.

    Args:
        make_norm: makes the norm behind the convolution, given its channels.
        dim: F, and D of `projected`; `aligned` has 2·D dimensions.
        identities: C of the classifier.
        teacher_dim: dimensions of `distilled_embedding`.
        cap: limit of the final map's gradient, relative to that of the other outputs.
    """

    size_hw = (32, 16)

    def __init__(
        self,
        make_norm: Callable[[int], nn.Module],
        dim: int,
        identities: int,
        teacher_dim: int,
        cap: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, dim, 4, 4, bias=False), make_norm(dim))
        self.neck = BNNeck(dim, identities)
        self.project = nn.Linear(dim, dim)
        self.to_teacher = nn.Linear(dim, teacher_dim)
        self.align = nn.Linear(dim, 2 * dim)
        self.part_project = nn.Linear(dim, dim, bias=False)
        self.cap = cap
        self.double()

    def forward_features(self, images: Tensor, cameras: Tensor | None = None) -> EncoderOutput:
        maps, final_map = fork(self.encoder(images.double()), self.cap)
        return EncoderOutput((maps.mean((2, 3)), maps.amax((2, 3))), maps, final_map)

    def forward_heads(self, encoded: EncoderOutput) -> ReIDOutput:
        feature = encoded.features[0]
        assert encoded.cells is not None
        return ReIDOutput(
            features=encoded.features,
            logits=(self.neck(feature),),
            projected=self.project(feature),
            aligned=FusedMap(encoded.cells, self.align.weight, self.align.bias),
            distilled_embedding=self.to_teacher(feature),
            final_map=encoded.final_map,
        )
