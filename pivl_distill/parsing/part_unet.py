"""A small U-Net that parses rendered people (Ronneberger et al., MICCAI 2015), for `pretrain`.

Whether a part is left or right depends on its position and on the direction the person faces. The
network computes logits as if everybody faced the camera, and a global feature of the crop predicts
the probability that left and right must be swapped. The same feature gates the channels of every
level (squeeze and excitation, Hu et al., CVPR 2018). Skip connections are added, not concatenated,
and logits have half the resolution, which keeps the file at half a megabyte and fast on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pivl_distill.data.vocabulary import Vocabulary

WIDTHS = (24, 32, 40)
"""Channels at 1/2, 1/4 and 1/8 of the resolution; 1/16 has as many as 1/8."""


class PartUNet(nn.Module):
    """Map normalised images [B, 3, H, W] to logits [B, P, H/2, W/2]; H and W multiples of 16."""

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
        """Return the logits of `forward`, and the logit [B] of the person facing the camera."""
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
    """One decoder level: upsample, add the skip, gate channels by the global feature, convolve."""

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
