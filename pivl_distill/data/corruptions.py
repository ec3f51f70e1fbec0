"""Corruptions that cameras and detectors make, for the robustness card: nine kinds, five strengths.

Blur, noise, JPEG and low resolution are those of ImageNet-C (Hendrycks & Dietterich, ICLR 2019),
which Chen et al. (NeurIPS 2021, "Benchmarks for Corruption Invariant Person Re-identification")
apply to ReID. ImageNet-C gives the sizes of its blurs in pixels of an image of 224×224; here they
are shares of the crop's height, so that they do not depend on the input size. Low light, colour
cast, detector jitter and occlusion are not in ImageNet-C and are defined here.

A corruption is a function of the crop alone: its random draws come from the pixels, so they depend
neither on the order of the crops nor on the strength. A stronger noise or a larger occluder is that
of the weaker one, scaled. Crops are corrupted at the network's input size.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pivl_distill.errors import PivlError, unknown_name

STRENGTHS = (1, 2, 3, 4, 5)
IMAGENET_C_SIDE_PX = 224
"""Side of the images that ImageNet-C states its blurs for."""
GAMMA = 2.2
"""sRGB values are about the power 1/2.2 of the light."""
FULL_WELL = 1000
"""Photons that a pixel of a small camera sensor counts at full white."""

Draw = np.random.Generator
Apply = Callable[[np.ndarray, float, Draw], np.ndarray]
"""Crop uint8 [H, W, 3], value of the strength and random draws → float or uint8 [H, W, 3]."""


def _defocus_blur(crop: np.ndarray, radius: float, draw: Draw) -> np.ndarray:
    reach = _reach(crop, radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # The edge of the disk is smooth over one pixel, as by the antialiasing of ImageNet-C.
    disk = np.clip(radius * len(crop) + 0.5 - np.hypot(rows, columns), 0, 1)
    return _convolve(crop, disk)


def _motion_blur(crop: np.ndarray, length: float, draw: Draw) -> np.ndarray:
    reach, angle = _reach(crop, length / 2), draw.uniform(0, np.pi)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    along = columns * np.cos(angle) + rows * np.sin(angle)
    across = rows * np.cos(angle) - columns * np.sin(angle)
    inside = np.clip(length * len(crop) / 2 + 0.5 - abs(along), 0, 1)
    return _convolve(crop, inside * np.clip(1 - abs(across), 0, 1))


def _noise(crop: np.ndarray, deviation: float, draw: Draw) -> np.ndarray:
    return crop + 255 * deviation * draw.standard_normal(crop.shape)


def _low_light(crop: np.ndarray, stops: float, draw: Draw) -> np.ndarray:
    photons = FULL_WELL * 2**-stops * (crop / 255) ** GAMMA
    counted = photons + np.sqrt(photons) * draw.standard_normal(crop.shape)
    return 255 * (np.clip(counted, 0, None) / FULL_WELL) ** (1 / GAMMA)


def _jpeg(crop: np.ndarray, quality: float, draw: Draw) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _low_resolution(crop: np.ndarray, share: float, draw: Draw) -> np.ndarray:
    height, width = crop.shape[:2]
    small = max(1, round(share * width)), max(1, round(share * height))
    image = Image.fromarray(crop).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _crop_offset(crop: np.ndarray, share: float, draw: Draw) -> np.ndarray:
    height, width = crop.shape[:2]
    margin = int(np.ceil(share * max(height, width)))
    padded = np.pad(crop, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    left, top, right, bottom = share * draw.uniform(-1, 1, 4) * (width, height, width, height)
    box = (margin + left, margin + top, margin + width + right, margin + height + bottom)
    image = Image.fromarray(padded)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def _occlusion(crop: np.ndarray, share: float, draw: Draw) -> np.ndarray:
    height, width = crop.shape[:2]
    stretch = 2 ** draw.uniform(-0.5, 0.5)  # of the height, relative to the crop's shape
    tall, wide = min(1, np.sqrt(share) * stretch), min(1, np.sqrt(share) / stretch)
    rows, columns = round(tall * height), round(wide * width)
    top, left = draw.uniform(size=2) * (height - rows, width - columns)
    covered = crop.copy()
    covered[round(top) : round(top) + rows, round(left) : round(left) + columns] = draw.integers(
        256, size=3
    )
    return covered


def _colour_cast(crop: np.ndarray, gain: float, draw: Draw) -> np.ndarray:
    gains = np.array([gain, 1, 1 / gain])
    return crop * (gains if draw.random() < 0.5 else gains[::-1])


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption; `values` are its five strengths, as `description` explains."""

    description: str
    values: tuple[float, float, float, float, float]
    apply: Apply


def _shares(*pixels: float) -> tuple[float, float, float, float, float]:
    """Convert pixels of an ImageNet-C image to shares of its height."""
    first, second, third, fourth, fifth = (px / IMAGENET_C_SIDE_PX for px in pixels)
    return first, second, third, fourth, fifth


CORRUPTIONS = {
    "defocus_blur": Corruption(
        "disk; radius as a share of the height (ImageNet-C: 3 to 10 px of 224)",
        _shares(3, 4, 6, 8, 10),
        _defocus_blur,
    ),
    "motion_blur": Corruption(
        "straight motion in a random direction; length as a share of the height (ImageNet-C: 10 to"
        " 20 px of 224)",
        _shares(10, 12.5, 15, 17.5, 20),
        _motion_blur,
    ),
    "noise": Corruption(
        "Gaussian; standard deviation as a share of full white (ImageNet-C)",
        (0.08, 0.12, 0.18, 0.26, 0.38),
        _noise,
    ),
    "low_light": Corruption(
        f"underexposure in stops, with the shot noise of {FULL_WELL} photons at full white",
        (1, 2, 3, 4, 5),
        _low_light,
    ),
    "jpeg": Corruption(
        "JPEG; quality of libjpeg, 1 to 95 (ImageNet-C)", (25, 18, 15, 10, 7), _jpeg
    ),
    "low_resolution": Corruption(
        "fewer pixels, enlarged again; share of height and width (ImageNet-C)",
        (0.6, 0.5, 0.4, 0.3, 0.25),
        _low_resolution,
    ),
    "crop_offset": Corruption(
        "detector jitter: each side of the box moves by at most this share of the height or width;"
        " outside the crop its border pixels continue",
        (0.05, 0.1, 0.15, 0.2, 0.25),
        _crop_offset,
    ),
    "occlusion": Corruption(
        "a rectangle of one random colour; share of the area",
        (0.1, 0.2, 0.3, 0.4, 0.5),
        _occlusion,
    ),
    "colour_cast": Corruption(
        "wrong white balance: red times and blue divided by this gain, or the other way round",
        (1.1, 1.25, 1.45, 1.7, 2.0),
        _colour_cast,
    ),
}
"""All corruptions, in the order of the robustness card."""


def corrupt(crop: np.ndarray, corruption: str, strength: int) -> np.ndarray:
    """Return a corrupted copy of a crop, uint8 RGB [H, W, 3]; equal crops give equal results.

    Raises PivlError for an unknown corruption or a strength that is not 1 to 5.
    """
    if corruption not in CORRUPTIONS:
        raise unknown_name("corruption", corruption, CORRUPTIONS)
    if strength not in STRENGTHS:
        raise PivlError(f"A corruption has the strengths 1 to 5, not {strength}.")
    kind = CORRUPTIONS[corruption]
    draw = np.random.default_rng([zlib.crc32(corruption.encode()), zlib.crc32(crop.tobytes())])
    values = kind.apply(crop, kind.values[strength - 1], draw)
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def check_corruptions(names: Iterable[str]) -> None:
    """Raise PivlError for the first unknown name."""
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown_name("corruption", name, CORRUPTIONS)


@dataclass(frozen=True)
class CorruptedCrops:
    """Crops uint8 [N, H, W, 3] that are corrupted when a slice of them is read."""

    crops: np.ndarray
    corruption: str
    strength: int

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, rows: slice) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            return np.stack(list(pool.map(self._corrupt, self.crops[rows])))

    def _corrupt(self, crop: np.ndarray) -> np.ndarray:
        return corrupt(crop, self.corruption, self.strength)


def _reach(crop: np.ndarray, radius: float) -> int:
    """Pixels from the centre to the edge of a kernel; at most half of the shorter side."""
    return min(int(np.ceil(radius * len(crop) + 0.5)), min(crop.shape[:2]) // 2)


def _convolve(crop: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Return float [H, W, 3], the crop's mean under the kernel [2R + 1, 2R + 1] at every pixel.

    Outside the crop its border pixels continue.
    """
    reach = len(kernel) // 2
    padded = np.pad(crop, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    shape = padded.shape[:2]
    transformed = np.fft.rfft2(padded, shape, axes=(0, 1))
    weights = np.fft.rfft2(kernel / kernel.sum(), shape)[..., None]
    blurred: np.ndarray = np.fft.irfft2(transformed * weights, shape, axes=(0, 1))
    return blurred[2 * reach :, 2 * reach :]
