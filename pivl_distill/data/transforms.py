"""Augmentation of a batch: pad and crop, flip, erase — the image and its part map together.

The three operations and their defaults are those of the ReID baselines (Luo et al., CVPRW 2019;
random erasing by Zhong et al., AAAI 2020), which CLIP-ReID keeps. They act on uint8 crops, before
normalisation. On a map, a flip also exchanges the person's left and right, and whatever an
operation invents — padding, the erased box — has no known class, unless the background is asked
for. Noise in erased boxes is what the network sees, not bytes, so it comes after normalisation.
Colour changes are left out, as clothes are recognised by their colour.

Random choices are drawn on the host, pixels are moved wherever they are, whole batches at a time:
the bytes are the same on every device.
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
    """How strongly to augment; the defaults are the field's. Areas are shares of the crop.

    With `noise`, padding is black and erased boxes hold standard normal values after normalisation,
    as in CLIP-ReID. On maps both are of the part `invented`.
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
    """One batch's random choices: flip bool [B], shift (top, left) and box (top, left, h, w)."""

    flip: np.ndarray
    shift: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class Noise:
    """What erased boxes hold in the end."""

    boxes: np.ndarray
    """int [B, 4] of top, left, height and width."""
    values: list[Tensor]
    """float32 [height, width·3] of each box, standard normal."""

    def fill_boxes(self, images: Tensor, own: slice) -> None:
        """Fill the boxes of normalised images [b, 3, H, W], those `own` of the batch, in place."""
        _erase(images.permute(0, 2, 3, 1), self.boxes[own], self.values[own])


@dataclass(frozen=True)
class Augmented:
    """A batch: crops uint8 [B, H, W, 3], maps and their confidence uint8 [B, H, W]."""

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
) -> Augmented:
    """Augmented copies of crops uint8 [B, H, W, 3], maps and `confidence`, uint8 [B, H, W] each.

    `mirror` is the vocabulary's table (`Vocabulary.mirror`), needed where there are maps;
    `fill_rgb` colours padding and erased boxes, where the confidence is 0. The random draws do not
    depend on `maps`: runs with and without part maps see the same images.
    """
    if maps is not None and mirror is None:
        raise ValueError("maps cannot be flipped without their vocabulary's mirror table")
    device, pad_px = crops.device, augmentation.pad_px
    draws = _draw(len(crops), (crops.shape[1], crops.shape[2]), augmentation, rng)
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
    nothing = torch.zeros_like(part)
    sure = _move(confidence[..., None], places, pad_px, nothing)
    _erase(sure, draws.box, [nothing.repeat(maps.shape[2])] * len(maps))
    return Augmented(crops_out, maps_out[..., 0], sure[..., 0], noise)


def _draw(
    batch: int, size_hw: tuple[int, int], augmentation: Augmentation, rng: np.random.Generator
) -> _Draws:
    """All choices of a batch. A box longer than the crop is cut to it rather than drawn again."""
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
    """Where a batch's pixels come from, once its crops lie padded behind one another.

    `order` int64 [B] puts the crops to be flipped, `flips` of them, behind the others; `starts`
    int64 [B·H] is the padded pixel that each row of the result begins at.
    """

    order: Tensor
    flips: int
    starts: Tensor


def _source_pixels(
    draws: _Draws, size_hw: tuple[int, int], pad_px: int, device: torch.device
) -> _SourcePixels:
    (height, width), (top, left) = size_hw, draws.shift.T
    order = np.argsort(draws.flip, kind="stable")
    canvas = np.argsort(order)  # the place of each crop among the padded ones
    first_row = canvas * (height + 2 * pad_px) + top
    rows = first_row[:, None] + np.arange(height)
    starts = rows * (width + 2 * pad_px) + left[:, None]
    flips = int(np.count_nonzero(draws.flip))
    return _SourcePixels(to_device(order, device), flips, to_device(starts.ravel(), device))


def _move(
    images: Tensor, places: _SourcePixels, pad_px: int, fill: Tensor, mirror: Tensor | None = None
) -> Tensor:
    """Flip and shift within the padding, images [B, H, W, C] of crops or of maps alike.

    Values of flipped images are looked up in the table `mirror`.
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
    # Every row of the result is a window of the canvas, and all windows are one view of it.
    windows = canvas.view(-1).unfold(0, width * channels, channels)
    return windows.index_select(0, places.starts).view(images.shape)


def _erase(images: Tensor, boxes: np.ndarray, contents: Sequence[Tensor]) -> None:
    """Put `contents` [w·C] or [h, w·C] into the boxes of images [B, H, W, C], in place.

    Rows of pixels are rows of numbers here: these are copied several times as fast.
    """
    channels = images.shape[3]
    for image, content, (top, left, height, width) in zip(
        images.flatten(2), contents, boxes.tolist(), strict=True
    ):
        if height and width:
            first, last = left * channels, (left + width) * channels
            image[top : top + height, first:last] = content[..., : last - first]


def _noise(boxes: np.ndarray, rng: np.random.Generator, device: torch.device) -> Noise:
    """Drawn on the host, so that it is the same on every device."""
    sizes = boxes[:, 2:].tolist()
    drawn = np.concatenate([rng.standard_normal((h * w, 3), np.float32) for h, w in sizes])
    values = to_device(drawn, device).split([h * w for h, w in sizes])
    rows = [of_box.view(h, w * 3) for of_box, (h, w) in zip(values, sizes, strict=True)]
    return Noise(boxes, rows)
