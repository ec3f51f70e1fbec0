"""Resize crops to a network's input, and resample its scores at the crop's own pixels.

A crop is stretched or letterboxed. Scores are sampled at the crop's pixel centres in one bilinear
step, so the map has no rounding from the sizes of the input and of the scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pivl_distill.data.part_maps import FULL_CONFIDENCE, PartMap
from pivl_distill.data.vocabulary import IGNORE
from pivl_distill.parsing.settings import NetworkSettings


@dataclass(frozen=True)
class Placement:
    """The rectangle of a network's input that a crop fills, in input pixels."""

    crop_hw: tuple[int, int]
    """Height and width of the crop in its own pixels."""
    input_hw: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def compute_placement(
    crop_hw: tuple[int, int], input_hw: tuple[int, int], resize: Literal["stretch", "letterbox"]
) -> Placement:
    """Return the rectangle of the crop: all of the input, or centred with its aspect ratio."""
    (crop_h, crop_w), (input_h, input_w) = crop_hw, input_hw
    if resize == "stretch":
        return Placement(crop_hw, input_hw, 0, 0, input_h, input_w)
    scale = min(input_h / crop_h, input_w / crop_w)
    height, width = max(1, round(crop_h * scale)), max(1, round(crop_w * scale))
    top, left = (input_h - height) // 2, (input_w - width) // 2
    return Placement(crop_hw, input_hw, top, left, height, width)


def resize_to_input(crop: np.ndarray, placement: Placement) -> np.ndarray:
    """Resize a crop, uint8 [H, W, 3], onto a black canvas of the input's size."""
    enlarges = placement.height >= crop.shape[0]
    resized = cv2.resize(
        crop,
        (placement.width, placement.height),
        interpolation=cv2.INTER_LINEAR if enlarges else cv2.INTER_AREA,
    )
    canvas = np.zeros((*placement.input_hw, 3), np.uint8)
    rows = slice(placement.top, placement.top + placement.height)
    columns = slice(placement.left, placement.left + placement.width)
    canvas[rows, columns] = resized
    return canvas


def resample_scores(
    scores: Tensor,
    placement: Placement,
    *,
    align_corners: bool = False,
    mode: Literal["bilinear", "nearest"] = "bilinear",
) -> Tensor:
    """Resample scores [P, h, w] of the whole input at the pixels of the crop: float32 [P, H, W].

    `align_corners` tells, as in PyTorch, whether the corner pixels of scores and input coincide.
    """
    axes = [
        _positions(start, length, pixels, input_size, align_corners)
        for start, length, pixels, input_size in zip(
            (placement.top, placement.left),
            (placement.height, placement.width),
            placement.crop_hw,
            placement.input_hw,
            strict=True,
        )
    ]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1)[None].to(scores.device)
    return F.grid_sample(
        scores[None].float(), grid, mode, padding_mode="border", align_corners=align_corners
    )[0]


def _positions(
    start: int, length: int, pixels: int, input_size: int, align_corners: bool
) -> Tensor:
    """Return the crop's pixel centres along one axis of the input, −1 to 1 as in grid_sample."""
    centres = start + (torch.arange(pixels) + 0.5) * length / pixels
    if align_corners:
        return 2 * (centres - 0.5) / (input_size - 1) - 1
    return 2 * centres / input_size - 1


def map_from_scores(scores: Tensor, settings: NetworkSettings) -> PartMap:
    """Return the best class of logits [P, H, W]; IGNORE if its softmax is below `min_confidence`.

    The map includes that probability if `write_confidence` is set.
    """
    labels = scores.argmax(0).byte()
    if not (settings.min_confidence or settings.write_confidence):
        return PartMap(labels.cpu().numpy())
    probability = scores.softmax(0).amax(0)
    labels[probability < settings.min_confidence] = IGNORE
    confidence = (FULL_CONFIDENCE * probability).round().byte().cpu().numpy()
    return PartMap(labels.cpu().numpy(), confidence if settings.write_confidence else None)
