"""Augmentation of a batch: pad and crop, flip, erase — the image and its part map together.

The three operations and their defaults are those of the ReID baselines (Luo et al., CVPRW 2019;
random erasing by Zhong et al., AAAI 2020), which CLIP-ReID keeps. They act on uint8 crops, before
normalisation. On a map, a flip also exchanges the person's left and right, and whatever an
operation invents — padding, the erased box — has no known class, unless the background is asked
for. Colour changes are left out, as clothes are recognised by their colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pivl_distill.data.vocabulary import IGNORE


@dataclass(frozen=True)
class Augmentation:
    """How strongly to augment; the defaults are the field's. Areas are shares of the crop.

    With `noise_std`, a deviation of 1 per channel, padding is black and every erased pixel is drawn
    around the colour that would fill it, as in CLIP-ReID. On maps they are of the part `invented`.
    """

    pad_px: int = 10
    flip_probability: float = 0.5
    erase_probability: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 3.33)
    noise_std: tuple[float, float, float] | None = None
    invented: int = IGNORE


@dataclass(frozen=True)
class _Draws:
    """One batch's random choices: flip bool [B], shift (top, left) and box (top, left, h, w)."""

    flip: np.ndarray
    shift: np.ndarray
    box: np.ndarray


def augment(
    crops: np.ndarray,
    maps: np.ndarray | None,
    mirror: np.ndarray | None,
    augmentation: Augmentation,
    fill_rgb: tuple[int, int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Augmented copies of crops uint8 [B, H, W, 3] and of their maps uint8 [B, H, W].

    `mirror` is the vocabulary's table (`Vocabulary.mirror`), needed where there are maps;
    `fill_rgb` colours padding and erased boxes. The random draws do not depend on `maps`: runs with
    and without part maps see the same images.
    """
    draws = _draw(len(crops), (crops.shape[1], crops.shape[2]), augmentation, rng)
    fill = np.array(fill_rgb if augmentation.noise_std is None else (0, 0, 0), np.uint8)
    crops_out = _apply(crops, draws, augmentation.pad_px, fill)
    if augmentation.noise_std is not None:
        _fill_with_noise(crops_out, draws.box, fill_rgb, augmentation.noise_std, rng)
    if maps is None:
        return crops_out, None
    if mirror is None:
        raise ValueError("maps cannot be flipped without their vocabulary's mirror table")
    sided = maps.copy()
    sided[draws.flip] = mirror[maps[draws.flip]]
    part = np.array(augmentation.invented, np.uint8)
    return crops_out, _apply(sided, draws, augmentation.pad_px, part)


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


def _apply(images: np.ndarray, draws: _Draws, pad_px: int, fill: np.ndarray) -> np.ndarray:
    """Flip, shift within the padding, erase; images [B, H, W, ...] of crops or of maps alike."""
    _, height, width, *channels = images.shape
    # The border never changes, so one canvas serves all images of the batch.
    canvas = np.empty((height + 2 * pad_px, width + 2 * pad_px, *channels), np.uint8)
    canvas[:] = fill
    centre = canvas[pad_px : pad_px + height, pad_px : pad_px + width]
    out = np.empty_like(images)
    for number, image in enumerate(images):
        top, left = draws.shift[number]
        centre[:] = cv2.flip(image, 1) if draws.flip[number] else image
        out[number] = canvas[top : top + height, left : left + width]
        top, left, box_h, box_w = draws.box[number]
        out[number, top : top + box_h, left : left + box_w] = fill
    return out


def _fill_with_noise(
    crops: np.ndarray,
    boxes: np.ndarray,
    centre_rgb: tuple[int, int, int],
    std: tuple[float, float, float],
    rng: np.random.Generator,
) -> None:
    """Draw every pixel of the erased boxes, in place: standard normal once it is normalised."""
    for crop, (top, left, height, width) in zip(crops, boxes, strict=True):
        normal = rng.standard_normal((height, width, 3))
        pixels = (centre_rgb + 255 * np.array(std) * normal).round().clip(0, 255)
        crop[top : top + height, left : left + width] = pixels.astype(np.uint8)
