"""The hierarchical fusion-alignment head (π-VL §3.4): training only, gone at export.

Teachers and students use the same code, each with a head of its own. The CNN form takes the maps of
strides 4, 8 and 16 (Eq. 9–10). A ViT has either a simple feature pyramid made out of its last map
(Li et al., ECCV 2022, ViTDet) or goes the CNN's way with the tokens of three of its blocks. All
give one map at stride 8, to be compared with texts (Eq. 11).

A 1×1 convolution is the same before and after resampling, so where the laterals are nothing else,
maps are resampled in their own few channels and the D dimensions come last: in a `FusedMap`, which
need not be multiplied out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError

GRID_STRIDE = 8
"""Pixels per cell of the aligned map (§3.4)."""

FINEST_LEVEL, HALF_SCALE_LEVEL = 2, 5
"""Numbers of the map of stride 4, and of a ViT's map at half the scale of its tokens."""


@dataclass(frozen=True)
class FusedMap:
    """F of Eq. 10, [B, D, h, w]: `weight` · cells + `bias` at every cell, kept as these factors.

    With C < D, inner products of F are cheaper in the C channels than in the D dimensions, and all
    of them are there: F·t = x·(Wᵀt) + b·t and |F|² = xᵀ(WᵀW)x + 2·(Wᵀb)·x + |b|².
    """

    cells: Tensor
    """[B, C, h, w]."""
    weight: Tensor | None = None
    """[D, C]; None where the cells are F themselves."""
    bias: Tensor | None = None
    """[D] beside a weight."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, D, h, w)."""
        batch, channels, rows, columns = self.cells.shape
        return batch, channels if self.weight is None else len(self.weight), rows, columns

    def to_dense(self) -> Tensor:
        """F itself, [B, D, h, w]."""
        if self.weight is None:
            return self.cells
        return F.conv2d(self.cells, self.weight[:, :, None, None], self.bias)

    def gather(self, image: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """F at S cells, [S, D]."""
        cells = self.cells[image, :, row, column]
        return cells if self.weight is None else F.linear(cells, self.weight, self.bias)

    def inner_products(self, texts: Tensor) -> Tensor:
        """Inner products of every cell with P texts of its image, [B, P, D] → [B, P, h, w]."""
        cells = self.cells.flatten(2)  # [B, C, h·w]
        if self.weight is None or self.bias is None:
            inner_products = texts @ cells
        else:
            inner_products = (texts @ self.weight) @ cells + (texts @ self.bias)[:, :, None]
        return inner_products.unflatten(2, self.cells.shape[2:])

    def squared_norms(self) -> Tensor:
        """Squared length of every cell, [B, h, w]; rounding may leave a zero below zero."""
        if self.weight is None or self.bias is None:
            return self.cells.square().sum(1)
        cells = self.cells.flatten(2)
        slope = self.weight.T @ self.weight @ cells + 2 * (self.bias @ self.weight)[:, None]
        squared_norms = (cells * slope).sum(1) + self.bias.square().sum()
        return squared_norms.unflatten(1, self.cells.shape[2:])


def grid_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Cells of the aligned map for a crop of H × W pixels."""
    return size_hw[0] // GRID_STRIDE, size_hw[1] // GRID_STRIDE


def block_thirds(depth: int) -> tuple[int, int, int]:
    """Blocks, counted from 0, after a third, two thirds and all of `depth`: 3, 7, 11 of twelve."""
    first, second = (max(1, round(depth * part / 3)) - 1 for part in (1, 2))
    return first, second, depth - 1


def alignment_dim(dim: int, settings: HeadSettings) -> int:
    """The dimension of Eq. 11 where texts have `dim`; PivlError if it cannot hold them."""
    if settings.align_dim is not None and settings.align_dim < dim:
        raise PivlError(
            f"stage2.head.align_dim {settings.align_dim} is less than the {dim} dimensions of the"
            " texts, whose angles it would not keep; set it higher, or to null."
        )
    return settings.align_dim or dim


def orthogonal_projection(dim: int, wider: int) -> Tensor:
    """[dim, wider] with orthonormal rows, the same in every run: it keeps all inner products.

    It is fixed because a map that learns on the target side of Eq. 11 collapses (readings 13).
    """
    if dim == wider:
        return torch.eye(dim)
    random = torch.randn(wider, dim, generator=torch.Generator().manual_seed(0))
    return torch.linalg.qr(random).Q.T.contiguous()


def build_fusion_head(
    kind: Literal["cnn", "vit"],
    channels: tuple[int, ...],
    dim: int,
    size_hw: tuple[int, int],
    settings: HeadSettings,
) -> FusionHead:
    """The head for a backbone's maps; `channels` finest first, `dim` = D of the bank."""
    grid_hw, dim = grid_size(size_hw), alignment_dim(dim, settings)
    if kind == "vit" and settings.vit == "simple":
        return SimplePyramidFusion(channels[-1], dim, grid_hw, settings)
    if HALF_SCALE_LEVEL in settings.levels:
        raise PivlError(
            "stage2.head.levels: map 5 belongs to a ViT's simple pyramid; this network has 2, 3"
            " and 4."
        )
    finest = FINEST_LEVEL if kind == "cnn" else None
    return LateralFusion(channels, dim, grid_hw, settings, finest)


class FusionHead(nn.Module, ABC):
    """A head in two steps: what it makes of each crop by itself, and the last linear map of it."""

    @abstractmethod
    def encode_cells(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Maps [B, C_i, h_i, w_i] → [B, C, h, w] on the grid of the aligned map."""

    @abstractmethod
    def fuse(self, cells: Tensor) -> FusedMap:
        """What `encode_cells` gave → F of Eq. 10."""

    def forward(self, pyramid: tuple[Tensor, ...]) -> FusedMap:
        return self.fuse(self.encode_cells(pyramid))


class LateralFusion(FusionHead):
    """CNN form: lateral 1×1 convolutions F_i = DW(C_i) (Eq. 9), brought to the grid and fused.

    `finest` is the number of the map finer than the grid, None where all are coarser. Laterals
    without a norm or a strided convolution behind them are `linear`; if the channels of all maps
    are fewer than D as well, the map stays `factored`.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        dim: int,
        grid_hw: tuple[int, int],
        settings: HeadSettings,
        finest: int | None = FINEST_LEVEL,
    ) -> None:
        super().__init__()
        self.grid_hw = grid_hw
        self.places = tuple(level - FINEST_LEVEL for level in settings.levels)
        self.laterals = nn.ModuleList(
            append_norm(
                make_lateral(channels[place], dim, settings.lateral), dim, settings.lateral_norm
            )
            for place in self.places
        )
        self.to_grid = nn.ModuleList(
            ResampleToGrid(dim, grid_hw, settings, finer=level == finest)
            for level in settings.levels
        )
        self.merge = Merge(len(self.places), dim, settings.merge)
        strided = any(fit.halve is not None for fit in self.to_grid)
        self.linear = settings.lateral_norm == "none" and not strided
        self.factored = self.linear and sum(channels[place] for place in self.places) < dim

    def encode_cells(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        branches = zip(self.places, self.laterals, self.to_grid, strict=True)
        maps = [self._branch(pyramid[place], align, fit) for place, align, fit in branches]
        if self.factored:
            return torch.cat(maps, dim=1)
        merged: Tensor = self.merge(maps)
        return merged

    def fuse(self, cells: Tensor) -> FusedMap:
        if not self.factored:
            return FusedMap(cells)
        pointwise = [split_lateral(module)[1] for module in self.laterals]
        weights = [dense_conv_weight(conv) for conv in pointwise]
        biases = [cast(Tensor, conv.bias) for conv in pointwise]
        return FusedMap(cells, *self.merge.combine(weights, biases))

    def _branch(self, x: Tensor, align: nn.Module, fit: nn.Module) -> Tensor:
        """One map on the grid: in its own channels if the rest is `factored`, else in D."""
        if not self.linear:
            return cast(Tensor, fit(align(x)))
        before, pointwise = split_lateral(align)
        x = before(x)
        if self.factored:
            return cast(Tensor, fit(x))
        finer = x.shape[2:].numel() > math.prod(self.grid_hw)
        return cast(Tensor, pointwise(fit(x)) if finer else fit(pointwise(x)))


class SimplePyramidFusion(FusionHead):
    """Eq. 9–10 for a ViT: the last map at scales 4, 2, 1 (and ½), each 1×1 and 3×3; then 1×1."""

    def __init__(
        self, channels: int, dim: int, grid_hw: tuple[int, int], settings: HeadSettings
    ) -> None:
        super().__init__()
        hidden = min(256, dim)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *_rescale_layer(channels, level),
                nn.Conv2d(_channels_at(channels, level), hidden, 1, bias=False),
                LayerNorm2d(hidden),
                nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
                LayerNorm2d(hidden),
            )
            for level in settings.levels
        )
        self.to_grid = nn.ModuleList(
            ResampleToGrid(hidden, grid_hw, settings, finer=level == FINEST_LEVEL)
            for level in settings.levels
        )
        self.merge = Merge(len(settings.levels), hidden, settings.merge)
        self.project = nn.Conv2d(hidden, dim, 1)

    def encode_cells(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """The last of the maps alone [B, C, h', w'] → [B, 256, h, w]."""
        branches = zip(self.branches, self.to_grid, strict=True)
        merged: Tensor = self.merge([fit(branch(pyramid[-1])) for branch, fit in branches])
        return merged

    def fuse(self, cells: Tensor) -> FusedMap:
        return FusedMap(cells, dense_conv_weight(self.project), self.project.bias)


class ResampleToGrid(nn.Module):
    """Eq. 10: one map [B, D, h', w'] to the grid; `finer` says that it has twice its cells."""

    def __init__(
        self, dim: int, grid_hw: tuple[int, int], settings: HeadSettings, *, finer: bool
    ) -> None:
        super().__init__()
        self.grid_hw, self.up, self.down = grid_hw, settings.up, settings.down
        strided = finer and settings.down == "strided"
        self.halve = nn.Conv2d(dim, dim, 3, stride=2, padding=1, groups=dim) if strided else None

    def forward(self, x: Tensor) -> Tensor:
        halved = self.halve(x) if self.halve is not None else x
        return resample(halved, self.grid_hw, self.up, self.down)


class Merge(nn.Module):
    """Eq. 10: several maps [B, D, h, w] into one: summed, weighed and summed, or convolved."""

    def __init__(self, maps: int, dim: int, kind: Literal["sum", "concat", "weighted"]) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(maps)) if kind == "weighted" else None
        self.convolve = nn.Conv2d(maps * dim, dim, 1) if kind == "concat" else None

    def forward(self, maps: list[Tensor]) -> Tensor:
        if self.convolve is not None:
            convolved: Tensor = self.convolve(torch.cat(maps, dim=1))
            return convolved
        if self.weights is not None:
            maps = [weight * x for weight, x in zip(self.weights, maps, strict=True)]
        return sum(maps[1:], start=maps[0])

    def combine(self, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Linear maps [D, C_i] and [D] and the merging behind them as one, [D, ΣC_i] and [D]."""
        if self.convolve is not None:
            dim = self.convolve.out_channels
            blocks = dense_conv_weight(self.convolve).split(dim, dim=1)  # [D, D] each
            weights = [block @ weight for block, weight in zip(blocks, weights, strict=True)]
            biases = [block @ bias for block, bias in zip(blocks, biases, strict=True)]
            biases.append(cast(Tensor, self.convolve.bias))
        elif self.weights is not None:
            weights = [
                factor * weight for factor, weight in zip(self.weights, weights, strict=True)
            ]
            biases = [factor * bias for factor, bias in zip(self.weights, biases, strict=True)]
        return torch.cat(weights, dim=1), torch.stack(biases).sum(0)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resample(
    x: Tensor,
    grid_hw: tuple[int, int],
    up: Literal["bilinear", "nearest"] = "bilinear",
    down: Literal["average", "nearest", "strided"] = "average",
) -> Tensor:
    """Eq. 10: [B, D, h', w'] to whatever grid is asked for, by interpolation and never by strides.

    Maps at least as fine as the grid go down, the others up. What a strided convolution leaves
    over is averaged.
    """
    if x.shape[2:] == grid_hw:
        return x
    finer = x.shape[2] >= grid_hw[0] and x.shape[3] >= grid_hw[1]
    if (down if finer else up) == "nearest":
        return F.interpolate(x, size=grid_hw, mode="nearest-exact")
    if finer:
        return F.adaptive_avg_pool2d(x, grid_hw)
    return F.interpolate(x, size=grid_hw, mode="bilinear", align_corners=False)


def make_lateral(channels: int, dim: int, kind: str) -> nn.Module:
    """DW(·) of Eq. 9 and its stronger relatives: [B, C, h, w] → [B, D, h, w].

    Depth-wise means D / C filters per channel, so it exists only where C divides D: PivlError.
    """
    if kind == "separable":
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        return nn.Sequential(depthwise, nn.Conv2d(channels, dim, 1))
    if kind == "depthwise" and dim % channels:
        raise PivlError(
            f"A depth-wise lateral needs the text dimension {dim} to be a multiple of the"
            f" {channels} channels; set stage2.head.lateral to 'pointwise' or 'auto'."
        )
    if kind == "auto":
        kind = "pointwise" if dim % channels else "depthwise"
    groups = {"pointwise": 1, "depthwise": channels, "grouped": math.gcd(channels, dim)}[kind]
    return nn.Conv2d(channels, dim, 1, groups=groups)


def append_norm(module: nn.Module, dim: int, norm: Literal["none", "batch", "layer"]) -> nn.Module:
    """`module` with a norm over its `dim` outputs behind it."""
    if norm == "none":
        return module
    return nn.Sequential(module, nn.BatchNorm2d(dim) if norm == "batch" else LayerNorm2d(dim))


def split_lateral(module: nn.Module) -> tuple[nn.Module, nn.Conv2d]:
    """A lateral without a norm: what it does in space, and its 1×1 convolution to D."""
    if isinstance(module, nn.Sequential):
        return module[0], cast(nn.Conv2d, module[1])
    return nn.Identity(), cast(nn.Conv2d, module)


def dense_conv_weight(conv: nn.Conv2d) -> Tensor:
    """The matrix [D, C] of a 1×1 convolution, with zeros between its groups."""
    blocks = conv.weight.flatten(1).chunk(conv.groups)
    return torch.block_diag(*blocks) if conv.groups > 1 else blocks[0]


def _rescale_layer(channels: int, level: int) -> list[nn.Module]:
    """From the tokens' scale to that of map `level`: ×4, ×2, ×1 or ×½, as ViTDet.

    Each doubling of the scale halves the channels.
    """
    if level == HALF_SCALE_LEVEL:
        return [nn.MaxPool2d(2)]
    layers: list[nn.Module] = []
    for coarser in range(4, level, -1):
        before, after = (_channels_at(channels, number) for number in (coarser, coarser - 1))
        if coarser < 4:
            layers += [LayerNorm2d(before), nn.GELU()]
        layers.append(nn.ConvTranspose2d(before, after, 2, stride=2))
    return layers


def _channels_at(channels: int, level: int) -> int:
    """Channels of the map of `level` that is made of tokens with so many."""
    return channels // 2 ** max(4 - level, 0)
