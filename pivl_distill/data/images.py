"""Read and resize crops, identically in training, evaluation and the deployed runtime.

Resizing is bilinear with antialiasing (Pillow), as in torchvision. Only numpy and Pillow are
imported, so that the runtime can share the module.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pivl_distill.errors import PivlError


def read_crop(path: Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Read and resize an image: uint8 RGB [H, W, 3]; raises PivlError if it cannot be decoded."""
    return resize_crop(_open_rgb(path), size_hw)


def read_pixels(path: Path) -> np.ndarray:
    """Read an image at its own size: uint8 RGB [H, W, 3]; raises PivlError if undecodable."""
    return np.array(_open_rgb(path))


def resize_crop(image: Image.Image, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize an RGB image; return uint8 [H, W, 3]."""
    return np.array(image.resize(size_hw[::-1], Image.Resampling.BILINEAR))


def _open_rgb(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise PivlError(f"Cannot read the image {path}: {error}.") from error
