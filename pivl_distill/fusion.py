"""The hierarchical fusion-alignment head (π-VL §3.4): training only, gone at export.

Teachers and students use the same code: the CNN form takes maps of strides 4, 8 and 16 (Eq. 9–10),
the ViT form makes a simple feature pyramid out of the last map (Li et al. 2022, ViTDet). Both give
one map at stride 8 in the joint space, to be compared with texts (Eq. 11).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.config import HeadSettings
from pivl_distill.errors import PivlError

GRID_STRIDE = 8
"""Pixels per cell of the aligned map (§3.4)."""


def grid_of(size_hw: tuple[int, int]) -> tuple[int, int]:
    """Cells of the aligned map for a crop of H × W pixels."""
    return size_hw[0] // GRID_STRIDE, size_hw[1] // GRID_STRIDE


def build_fusion_head(
    kind: Literal["cnn", "vit"],
    channels: tuple[int, ...],
    dim: int,
    size_hw: tuple[int, int],
    settings: HeadSettings,
) -> nn.Module:
    """The head for a backbone's maps; `channels` finest first, `dim` = D of the bank."""
    if kind == "cnn":
        return ConvFusion(channels, dim, grid_of(size_hw), settings)
    return PlainFusion(channels[-1], dim, grid_of(size_hw), settings)


class ConvFusion(nn.Module):
    """CNN form: lateral 1×1 convolutions F_i = DW(C_i), resampled to the grid and summed."""

    def __init__(
        self, channels: tuple[int, ...], dim: int, grid_hw: tuple[int, int], settings: HeadSettings
    ) -> None:
        super().__init__()
        chosen = {"all": range(len(channels)), "literal": (0, len(channels) - 1), "last": (-1,)}
        self.levels = tuple(chosen[settings.levels])
        self.grid_hw = grid_hw
        self.laterals = nn.ModuleList(
            _lateral(channels[level], dim, settings.lateral) for level in self.levels
        )

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """Maps [B, C_i, h_i, w_i] → [B, D, h, w]."""
        maps = [
            resample(lateral(pyramid[level]), self.grid_hw)
            for level, lateral in zip(self.levels, self.laterals, strict=True)
        ]
        return sum(maps[1:], start=maps[0])


class PlainFusion(nn.Module):
    """ViT form: the last map at scales 4, 2 and 1, each 1×1 and 3×3, summed, then 1×1."""

    def __init__(
        self, channels: int, dim: int, grid_hw: tuple[int, int], settings: HeadSettings
    ) -> None:
        super().__init__()
        hidden = min(256, dim)
        up = {4: 2, 2: 1, 1: 0}
        scales = {"all": (4, 2, 1), "literal": (4, 1), "last": (1,)}[settings.levels]
        self.grid_hw = grid_hw
        self.branches = nn.ModuleList(
            nn.Sequential(
                *_upsampling(channels, up[scale]),
                nn.Conv2d(channels, hidden, 1, bias=False),
                LayerNorm2d(hidden),
                nn.Conv2d(hidden, hidden, 3, padding=1, bias=False),
                LayerNorm2d(hidden),
            )
            for scale in scales
        )
        self.project = nn.Conv2d(hidden, dim, 1)

    def forward(self, pyramid: tuple[Tensor, ...]) -> Tensor:
        """The last of the maps [B, C, h', w'] → [B, D, h, w]."""
        maps = [resample(branch(pyramid[-1]), self.grid_hw) for branch in self.branches]
        projected: Tensor = self.project(sum(maps[1:], start=maps[0]))
        return projected


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def resample(x: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Eq. 10: average pooling down, bilinear up, to whatever grid is asked for."""
    if x.shape[2:] == grid_hw:
        return x
    if x.shape[2] >= grid_hw[0]:
        return F.adaptive_avg_pool2d(x, grid_hw)
    return F.interpolate(x, size=grid_hw, mode="bilinear", align_corners=False)


def _lateral(channels: int, dim: int, kind: Literal["pointwise", "depthwise", "auto"]) -> nn.Module:
    """Eq. 9. Depth-wise means D / C filters per channel, so it exists only where C divides D."""
    divides = dim % channels == 0
    if kind == "depthwise" and not divides:
        raise PivlError(
            f"A depth-wise lateral needs the text dimension {dim} to be a multiple of the"
            f" {channels} channels; set stage2.head.lateral to 'pointwise' or 'auto'."
        )
    depthwise = kind == "depthwise" or (kind == "auto" and divides)
    return nn.Conv2d(channels, dim, 1, groups=channels if depthwise else 1)


def _upsampling(channels: int, doublings: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for number in range(doublings):
        if number:
            layers += [LayerNorm2d(channels), nn.GELU()]
        layers.append(nn.ConvTranspose2d(channels, channels, 2, stride=2))
    return layers
