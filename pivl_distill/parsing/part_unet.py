"""A small U-Net that parses synthetic people (Ronneberger et al., MICCAI 2015), for `pretrain`.

A part's side is where it lies times the way the person faces. The network scores parts as if
everybody faced the camera, and a summary of the whole crop says how far to swap left and right; it
also gates the channels of every level (squeeze and excitation, Hu et al., CVPR 2018). Skips are
added, not concatenated, and scores come at half the resolution, to stay at half a megabyte and
quick on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.data.vocabulary import Vocabulary

WIDTHS = (24, 32, 40)
"""Channels at a half, a quarter and an eighth of the resolution; the deepest has as many."""


class PartUNet(nn.Module):
    """Normalised images [B, 3, H, W], H and W multiples of 16 → logits [B, P, H/2, W/2]."""

    mirror: Tensor

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        fine, middle, coarse = WIDTHS
        self.down = nn.ModuleList(
            nn.Sequential(_conv(before, width, stride=2), _conv(width, width))
            for before, width in ((3, fine), (fine, middle), (middle, coarse))
        )
        self.deepest = nn.Sequential(_conv(coarse, coarse, stride=2), _conv(coarse, coarse))
        self.up = nn.ModuleList(
            _Up(below, width, coarse)
            for below, width in ((coarse, coarse), (coarse, middle), (middle, fine))
        )
        self.head = nn.Conv2d(fine, len(vocabulary), 1)
        self.facing = nn.Linear(coarse, 1)
        mirror = torch.from_numpy(vocabulary.mirror[: len(vocabulary)]).long()
        self.register_buffer("mirror", mirror, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.scores(images)[0]

    def scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits as from `forward`, and the logit [B] of the person's left being on the right."""
        skips, features = [], images
        for down in self.down:
            features = down(features)
            skips.append(features)
        features = self.deepest(features)
        whole = features.mean((2, 3), keepdim=True)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            features = up(features, skip, whole)
        towards = self.head(features)
        facing = self.facing(whole.flatten(1))
        share = facing.sigmoid()[:, :, None, None]
        return share * towards + (1 - share) * towards[:, self.mirror], facing.squeeze(1)


class _Up(nn.Module):
    """One level up: add the skip, gate channels by the whole crop, convolve."""

    def __init__(self, below: int, width: int, whole: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(below, width, 1)
        self.gate = nn.Conv2d(whole, width, 1)
        self.conv = _conv(width, width)

    def forward(self, features: Tensor, skip: Tensor, whole: Tensor) -> Tensor:
        larger = F.interpolate(self.lateral(features), scale_factor=2.0, mode="nearest")
        mixed: Tensor = self.conv((larger + skip) * self.gate(whole).sigmoid())
        return mixed


def _conv(before: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
