"""Augmentation of a batch: pad and crop, flip, erase, applied to images and part maps alike.

The three operations and their defaults are those of the ReID baselines (Luo et al., CVPRW 2019;
random erasing by Zhong et al., AAAI 2020), which CLIP-ReID keeps. They act on uint8 crops, before
normalisation. On a map, a flip also swaps left and right labels, and padding and erased boxes
become unknown, or background if requested. Noise in erased boxes is added after normalisation.
Colour augmentation is left out, because clothes are recognised by their colour.

Random choices are drawn on the host and applied to the whole batch on its device, so the result is
identical on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pivl_distill.data.batches import to_device
from pivl_distill.data.vocabulary import IGNORE


@dataclass(frozen=True)
class Augmentation:
    """Strength of augmentation; defaults are the usual ones. Areas are shares of the crop.

    With `noise`, padding is black and erased boxes contain standard normal values after
    normalisation, as in CLIP-ReID. On maps, padding and boxes have the label `invented`.
    """

    pad_px: int = 10
    flip_probability: float = 0.5
    erase_probability: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 3.33)
    noise: bool = False
    invented: int = IGNORE


@dataclass(frozen=True)
class _Draws:
    """Choices of a batch: flip [B], shift [B, 2] (top, left), box [B, 4] (top, left, h, w)."""

    flip: np.ndarray
    shift: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Flips and offsets of a batch that are given instead of drawn."""

    flip: np.ndarray
    """bool [B]."""
    offset: np.ndarray
    """int [B, 2], downwards and to the right, in pixels."""


@dataclass(frozen=True)
class Noise:
    """Noise for the erased boxes of a batch."""

    boxes: np.ndarray
    """int [B, 4]: top, left, height, width in pixels."""
    values: list[Tensor]
    """float32 [height, width·3] of each box, standard normal."""

    def fill_boxes(self, images: Tensor, rows: slice) -> None:
        """Fill the boxes of normalised images [b, 3, H, W], the `rows` of the batch, in place."""
        _erase(images.permute(0, 2, 3, 1), self.boxes[rows], self.values[rows])


@dataclass(frozen=True)
class Augmented:
    """An augmented batch: crops uint8 [B, H, W, 3], maps and their confidence uint8 [B, H, W]."""

    crops: Tensor
    maps: Tensor | None = None
    confidence: Tensor | None = None
    noise: Noise | None = None


def augment(
    crops: Tensor,
    maps: Tensor | None,
    mirror: np.ndarray | None,
    augmentation: Augmentation,
    fill_rgb: tuple[int, int, int],
    rng: np.random.Generator,
    confidence: Tensor | None = None,
    geometry: Geometry | None = None,
) -> Augmented:
    """Return an augmented copy of a batch.

    The random choices do not depend on `maps`: runs with and without part maps see the same images.

    Args:
        crops: uint8 [B, H, W, 3].
        maps: part labels uint8 [B, H, W], or None.
        mirror: label → label of the mirrored image (`Vocabulary.mirror`); required with maps.
        augmentation: strength of the augmentation.
        fill_rgb: colour of padding and erased boxes; their confidence is 0.
        rng: source of the random choices.
        confidence: the parser's confidence uint8 [B, H, W], or None.
        geometry: replaces the drawn flips and shifts; what else is drawn stays the same.
    """
    if maps is not None and mirror is None:
        raise ValueError("maps cannot be flipped without their vocabulary's mirror table")
    device, pad_px = crops.device, augmentation.pad_px
    draws = _draw(len(crops), (crops.shape[1], crops.shape[2]), augmentation, rng)
    if geometry is not None:
        draws, pad_px = _with_geometry(draws.box, geometry)
    places = _source_pixels(draws, (crops.shape[1], crops.shape[2]), pad_px, device)
    noise = _noise(draws.box, rng, device) if augmentation.noise else None
    colour = to_device(np.array(fill_rgb, np.uint8), device)
    padding = colour if noise is None else torch.zeros_like(colour)
    crops_out = _move(crops, places, pad_px, padding)
    _erase(crops_out, draws.box, [colour.repeat(crops.shape[2])] * len(crops))
    if maps is None or mirror is None:
        return Augmented(crops_out, noise=noise)
    part = torch.full((1,), augmentation.invented, dtype=torch.uint8, device=device)
    maps_out = _move(maps[..., None], places, pad_px, part, to_device(mirror, device))
    _erase(maps_out, draws.box, [part.repeat(maps.shape[2])] * len(maps))
    if confidence is None:
        return Augmented(crops_out, maps_out[..., 0], noise=noise)
    zero = torch.zeros_like(part)
    confidence_out = _move(confidence[..., None], places, pad_px, zero)
    _erase(confidence_out, draws.box, [zero.repeat(maps.shape[2])] * len(maps))
    return Augmented(crops_out, maps_out[..., 0], confidence_out[..., 0], noise)


def move_crops(crops: Tensor, geometry: Geometry, fill_rgb: tuple[int, ...]) -> Tensor:
    """Return flipped and shifted crops uint8 [B, H, W, 3]; new pixels have colour `fill_rgb`."""
    draws, pad_px = _with_geometry(np.zeros((len(crops), 4), int), geometry)
    places = _source_pixels(draws, (crops.shape[1], crops.shape[2]), pad_px, crops.device)
    return _move(crops, places, pad_px, to_device(np.array(fill_rgb, np.uint8), crops.device))


def _with_geometry(box: np.ndarray, geometry: Geometry) -> tuple[_Draws, int]:
    """Return choices with the given flips and offsets, and the padding in pixels they need."""
    pad_px = int(np.abs(geometry.offset).max(initial=0))
    return _Draws(geometry.flip, pad_px - geometry.offset, box), pad_px


def _draw(
    batch: int, size_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> _Draws:
    """Draw all choices of a batch. A box larger than the crop is clipped, not drawn again."""
    size = np.array(size_hw)
    flip = rng.random(batch) < augmentation.flip_probability
    shift = rng.integers(0, 2 * augmentation.pad_px, size=(batch, 2), endpoint=True)
    erase = rng.random(batch) < augmentation.erase_probability
    area_px = rng.uniform(*augmentation.erase_area, batch) * size.prod()
    aspect = rng.uniform(*augmentation.erase_aspect, batch)
    sides = np.sqrt(np.stack([area_px * aspect, area_px / aspect], axis=1)).round().astype(int)
    sides = np.minimum(sides, size) * erase[:, None]
    corner = rng.integers(0, size - sides, endpoint=True)
    return _Draws(flip, shift, np.concatenate([corner, sides], axis=1))


@dataclass(frozen=True)
class _SourcePixels:
    """Source of each output row in the canvas of all padded crops of a batch.

    `order` int64 [B] sorts the `flips` crops to be flipped after the others; `starts` int64 [B·H]
    is the index of the canvas pixel at which each output row begins.
    """

    order: Tensor
    flips: int
    starts: Tensor


def _source_pixels(
    draws: _Draws, size_hw: tuple[int, int], pad_px: int, device: torch.device
) -> _SourcePixels:
    (height, width), (top, left) = size_hw, draws.shift.T
    order = np.argsort(draws.flip, kind="stable")
    canvas = np.argsort(order)  # index of each crop in the canvas
    first_row = canvas * (height + 2 * pad_px) + top
    rows = first_row[:, None] + np.arange(height)
    starts = rows * (width + 2 * pad_px) + left[:, None]
    flips = int(np.count_nonzero(draws.flip))
    return _SourcePixels(to_device(order, device), flips, to_device(starts.ravel(), device))


def _move(
    images: Tensor, places: _SourcePixels, pad_px: int, fill: Tensor, mirror: Tensor | None = None
) -> Tensor:
    """Flip and shift crops or maps [B, H, W, C] within their padding.

    Values of flipped images are mapped through the table `mirror`.
    """
    batch, height, width, channels = images.shape
    padded_hw = (height + 2 * pad_px, width + 2 * pad_px)
    canvas = fill.repeat(padded_hw[1]).expand(batch, padded_hw[0], -1).contiguous()
    centre = canvas.view(batch, *padded_hw, channels)[
        :, pad_px : pad_px + height, pad_px : pad_px + width
    ]
    plain, mirrored = images.index_select(0, places.order).split(
        [batch - places.flips, places.flips]
    )
    mirrored = mirrored.flip(2)
    if mirror is not None:
        mirrored = mirror.index_select(0, mirrored.flatten().int()).view_as(mirrored)
    centre[: len(plain)] = plain
    centre[len(plain) :] = mirrored
    # Every output row is a window of the canvas; all windows are one view of it.
    windows = canvas.view(-1).unfold(0, width * channels, channels)
    return windows.index_select(0, places.starts).view(images.shape)


def _erase(images: Tensor, boxes: np.ndarray, contents: Sequence[Tensor]) -> None:
    """Copy `contents` [w·C] or [h, w·C] into the boxes of images [B, H, W, C], in place.

    Pixels and channels are flattened to one axis, which copies several times faster.
    """
    channels = images.shape[3]
    for image, content, (top, left, height, width) in zip(
        images.flatten(2), contents, boxes.tolist(), strict=True
    ):
        if height and width:
            first, last = left * channels, (left + width) * channels
            image[top : top + height, first:last] = content[..., : last - first]


def _noise(boxes: np.ndarray, rng: np.random.Generator, device: torch.device) -> Noise:
    """Draw noise on the host, so that it is identical on every device."""
    sizes = boxes[:, 2:].tolist()
    drawn = np.concatenate([rng.standard_normal((h * w, 3), np.float32) for h, w in sizes])
    values = to_device(drawn, device).split([h * w for h, w in sizes])
    rows = [value.view(h, w * 3) for value, (h, w) in zip(values, sizes, strict=True)]
    return Noise(boxes, rows)
