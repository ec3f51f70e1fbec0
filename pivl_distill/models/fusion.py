"""The fusion-alignment head as the paper writes it (π-VL §3.4, Eq. 9–10): the reference.

A head maps a backbone's feature maps to one map F [B, D, h, w] of stride 8, whose cells Eq. 11
compares with text features. Teacher and student use the same code with separate weights; the head
exists in training only and is dropped at export. A CNN has maps of strides 4, 8 and 16. A ViT
either builds a simple feature pyramid from its last map (ViTDet, Li et al., ECCV 2022) or feeds the
tokens of three blocks to the same laterals as a CNN.

Calling a head evaluates the equations literally, every map in D dimensions. Training computes the
same values faster, through `factorised_fusion.py`; tests hold that path to this one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError
from pivl_distill.models.text_projection import alignment_dim

GRID_STRIDE = 8
"""Pixels per cell of the aligned map (§3.4)."""

FINEST_LEVEL, TOKEN_LEVEL, HALF_SCALE_LEVEL = 2, 4, 5
"""Level ℓ is the map of stride 2^ℓ: a CNN's finest, a ViT's own tokens, and half their scale."""

SIMPLE_PYRAMID_DIM = 256
"""Channels of the branches of a simple feature pyramid, as in ViTDet; fewer if D is smaller."""


def grid_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the cells (h, w) of the aligned map for a crop of H × W pixels."""
    return size_hw[0] // GRID_STRIDE, size_hw[1] // GRID_STRIDE


def block_thirds(depth: int) -> tuple[int, int, int]:
    """Return the indices of the blocks at one third, two thirds and all of `depth`: 3, 7, 11 of 12.

    Their tokens are the three maps of a ViT with `stage2.head.vit=blocks`.
    """
    first, second = (max(1, round(depth * part / 3)) - 1 for part in (1, 2))
    return first, second, depth - 1


def build_fusion_head(
    kind: Literal["cnn", "vit"],
    channels: tuple[int, ...],
    dim: int,
    size_hw: tuple[int, int],
    settings: HeadSettings,
) -> FusionHead:
    """Build the head for a backbone's maps.

    Args:
        kind: the kind of backbone.
        channels: channels of its maps, finest (or earliest) first.
        dim: D of the prompt bank; `settings.align_dim` replaces it where it is set.
        size_hw: height and width of a crop in pixels.
        settings: `stage2.head`.

    Raises:
        PivlError: `settings` ask for a map, a lateral or a dimension that cannot exist here.
    """
    grid_hw, dim = grid_size(size_hw), alignment_dim(dim, settings)
    if kind == "vit" and settings.vit == "simple":
        return SimplePyramidFusion(channels[-1], dim, grid_hw, settings)
    if HALF_SCALE_LEVEL in settings.levels:
        raise PivlError(
            "stage2.head.levels: map 5 exists only in a ViT's simple pyramid; this network has 2, 3"
            " and 4."
        )
    finest = FINEST_LEVEL if kind == "cnn" else None
    return LateralFusion(channels, dim, grid_hw, settings, finest)


class FusionHead(nn.Module, ABC):
    """A fusion head; `forward` is the reference.

    Training calls `encode_cells` and `fuse` of `factorised_fusion.py` instead.
    """

    @abstractmethod
    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Fuse maps [B, C_i, h_i, w_i], finest first, to F of Eq. 10, [B, D, h, w]."""


class LateralFusion(FusionHead):
    """Eq. 9–10 for the maps of a CNN, or the tokens of three blocks of a ViT."""

    def __init__(
        self,
        channels: tuple[int, ...],
        dim: int,
        grid_hw: tuple[int, int],
        settings: HeadSettings,
        finest: int | None = FINEST_LEVEL,
    ) -> None:
        """Create the layers.

        Args:
            channels: C_i of each map, finest first.
            dim: D, the dimension of the fused map.
            grid_hw: cells (h, w) of the fused map.
            settings: `stage2.head`.
            finest: the level that is finer than the grid; None if every map is coarser.
        """
        super().__init__()
        self.grid_hw = grid_hw
        self.map_indices = tuple(level - FINEST_LEVEL for level in settings.levels)
        self.channels = tuple(channels[index] for index in self.map_indices)
        self.dim, self.lateral_norm = dim, settings.lateral_norm
        self.laterals = nn.ModuleList(
            append_norm(make_lateral(width, dim, settings.lateral), dim, settings.lateral_norm)
            for width in self.channels
        )
        self.to_grid = nn.ModuleList(
            ResampleToGrid(dim, grid_hw, settings, finer=level == finest)
            for level in settings.levels
        )
        self.merge = Merge(len(self.map_indices), dim, settings.merge)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """F = Σ_i resample(DW(C_i)), or another merge: [B, C_i, h_i, w_i] → [B, D, h, w]."""
        maps = [pyramid[index] for index in self.map_indices]
        projected = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]  # Eq. 9
        resampled = [to_grid(x) for to_grid, x in zip(self.to_grid, projected, strict=True)]
        fused: Tensor = self.merge(resampled)  # Eq. 10
        return fused


class SimplePyramidFusion(FusionHead):
    """Eq. 9–10 for a ViT's last map: a simple feature pyramid takes the place of its maps.

    The last map is rescaled by 4, 2, 1 and ½ as in ViTDet, each scale passes a 1×1 and a 3×3
    convolution, and a 1×1 convolution maps the merged scales to D dimensions.
    """

    def __init__(
        self, channels: int, dim: int, grid_hw: tuple[int, int], settings: HeadSettings
    ) -> None:
        super().__init__()
        hidden = min(SIMPLE_PYRAMID_DIM, dim)
        self.branches = nn.ModuleList(
            nn.Sequential(
                *_rescale_layers(channels, level),
                nn.Conv2d(_channels_at_level(channels, level), hidden, 1, bias=False),
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

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """[B, C, h', w'], the last of `pyramid` → [B, D, h, w]."""
        fused: Tensor = self.project(self.merge_branches(pyramid))
        return fused

    def merge_branches(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Everything but the projection: the last map of `pyramid` → [B, 256, h, w]."""
        scales = [branch(pyramid[-1]) for branch in self.branches]
        resampled = [to_grid(x) for to_grid, x in zip(self.to_grid, scales, strict=True)]
        merged: Tensor = self.merge(resampled)
        return merged


class ResampleToGrid(nn.Module):
    """Eq. 10: resample one map [B, D, h', w'] to the grid.

    A map that is `finer` than the grid passes a strided convolution first, with `down=strided`.
    """

    def __init__(
        self, dim: int, grid_hw: tuple[int, int], settings: HeadSettings, *, finer: bool
    ) -> None:
        super().__init__()
        self.grid_hw, self.up, self.down = grid_hw, settings.up, settings.down
        self.strided_conv: nn.Conv2d | None = None
        if finer and settings.down == "strided":
            self.strided_conv = nn.Conv2d(dim, dim, 3, stride=2, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.strided_conv is not None:
            x = self.strided_conv(x)
        return resample(x, self.grid_hw, self.up, self.down)


class Merge(nn.Module):
    """Eq. 10: merge maps [B, D, h, w] by a sum, a learned weighted sum or a 1×1 convolution."""

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
    """Resample [B, D, h', w'] to [B, D, h, w] (Eq. 10), for any pair of sizes.

    A map at least as fine as the grid on both axes is downsampled, any other is upsampled. With
    "strided" this averages what is left over behind the strided convolution.
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
    """Make DW(·) of Eq. 9 or a variant of it: [B, C, h, w] → [B, D, h, w].

    "depthwise" has D / C filters per channel. Raises PivlError if C does not divide D.
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
    """Return `module` followed by a norm over its `dim` output channels."""
    if norm == "none":
        return module
    return nn.Sequential(module, nn.BatchNorm2d(dim) if norm == "batch" else LayerNorm2d(dim))


def _rescale_layers(channels: int, level: int) -> list[nn.Module]:
    """Return the layers from a ViT's last map to that of `level`, as in ViTDet: ×4, ×2, ×1 or ×½.

    Each doubling of the scale halves the channels.
    """
    if level == HALF_SCALE_LEVEL:
        return [nn.MaxPool2d(2)]
    layers: list[nn.Module] = []
    for coarser in range(TOKEN_LEVEL, level, -1):
        width, next_width = (
            _channels_at_level(channels, number) for number in (coarser, coarser - 1)
        )
        if coarser < TOKEN_LEVEL:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, next_width, 2, stride=2))
    return layers


def _channels_at_level(channels: int, level: int) -> int:
    """Return the channels of the map of `level` in the simple pyramid of a map of `channels`."""
    return channels // 2 ** max(TOKEN_LEVEL - level, 0)
