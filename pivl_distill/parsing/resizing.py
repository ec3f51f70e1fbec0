"""From a crop to a network's input and from its scores back to the crop's own pixels.

Scores are sampled where the crop's pixel centres fall, in one bilinear step, so neither the input's
size nor that of the scores leaves a trace in the map.
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
    """The box of a network's input, in its pixels, that a crop of `crop_hw` pixels fills."""

    crop_hw: tuple[int, int]
    input_hw: tuple[int, int]
    top: int
    left: int
    height: int
    width: int


def compute_placement(
    crop_hw: tuple[int, int], input_hw: tuple[int, int], resize: Literal["stretch", "letterbox"]
) -> Placement:
    """Where a crop goes: over all of the input, or centred in it with its aspect kept."""
    (crop_h, crop_w), (input_h, input_w) = crop_hw, input_hw
    if resize == "stretch":
        return Placement(crop_hw, input_hw, 0, 0, input_h, input_w)
    scale = min(input_h / crop_h, input_w / crop_w)
    height, width = max(1, round(crop_h * scale)), max(1, round(crop_w * scale))
    top, left = (input_h - height) // 2, (input_w - width) // 2
    return Placement(crop_hw, input_hw, top, left, height, width)


def resize_to_input(crop: np.ndarray, placement: Placement) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [input height, input width, 3], black around the crop."""
    grows = placement.height >= crop.shape[0]
    resized = cv2.resize(
        crop,
        (placement.width, placement.height),
        interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA,
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
    """Scores [P, h, w] that cover the input → float [P, H, W] at the pixels of the crop.

    `align_corners` says how the network's own scores lie over its input, as in PyTorch.
    """
    axes = [
        _positions(start, length, pixels, whole, align_corners)
        for start, length, pixels, whole in zip(
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


def _positions(start: int, length: int, pixels: int, whole: int, align_corners: bool) -> Tensor:
    """Pixel centres of one axis of the crop in the input, −1..1 as grid_sample has it."""
    centres = start + (torch.arange(pixels) + 0.5) * length / pixels
    if align_corners:
        return 2 * (centres - 0.5) / (whole - 1) - 1
    return 2 * centres / whole - 1


def map_from_scores(scores: Tensor, settings: NetworkSettings) -> PartMap:
    """Logits [P, H, W] → the best class, IGNORE where its probability is too low.

    With its probability where the settings want it written.
    """
    labels = scores.argmax(0).byte()
    if not (settings.min_confidence or settings.write_confidence):
        return PartMap(labels.cpu().numpy())
    probability = scores.softmax(0).amax(0)
    labels[probability < settings.min_confidence] = IGNORE
    confidence = (FULL_CONFIDENCE * probability).round().byte().cpu().numpy()
    return PartMap(labels.cpu().numpy(), confidence if settings.write_confidence else None)
