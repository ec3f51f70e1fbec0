"""Open every image and part map: one door, the same in training, evaluation and the runtime.

Whatever a decoder raises becomes a PivlError that names the file. Images are decoded whole, turned
upright by their EXIF orientation, and converted to 8-bit RGB. Resizing is bilinear with
antialiasing (Pillow), as in torchvision. Only numpy and Pillow are imported, so that the runtime
can share the module.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pivl_distill.errors import PivlError
from pivl_distill.storage.limits import (
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_SIDE,
    MAX_JPEG_SCANS,
)
from pivl_distill.storage.readers import check_size

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
"""Formats that are decoded, whatever the file's suffix; others start programs (EPS) or are rare."""

_JPEG_SCAN = b"\xff\xda"
"""Marker of a scan; the bytes of pixels never look like it."""


def read_crop(path: Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Read and resize an image: uint8 RGB [H, W, 3]; raises PivlError if it cannot be decoded."""
    return resize_crop(read_image(path), size_hw)


def read_pixels(path: Path) -> np.ndarray:
    """Read an image at its own size: uint8 RGB [H, W, 3]; raises PivlError if undecodable."""
    return np.array(read_image(path))


def resize_crop(image: Image.Image, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize an RGB image; return uint8 [H, W, 3]."""
    return np.array(image.resize(size_hw[::-1], Image.Resampling.BILINEAR))


def read_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Decode an image to 8-bit RGB, upright; `data` are the file's bytes if they are known.

    Of 16 bits per channel, the high byte is kept. Raises PivlError if the image cannot be decoded,
    or has 32-bit pixels, whose range is unknown.
    """
    with _errors_name(path, "image"):
        return _to_rgb(_decode(path, data))


def read_stored_image(path: Path, what: str) -> Image.Image:
    """Decode a file whose pixels are values, such as a part map: stored mode, upright.

    Raises PivlError "Cannot read the `what` ..." if it cannot be decoded.
    """
    with _errors_name(path, what):
        return _decode(path, None)


def read_contents(path: Path) -> bytes:
    """Return the bytes of an image file; raises OSError, or PivlError if it is too large."""
    _check_file(path)
    return path.read_bytes()


def read_size_hw(path: Path) -> tuple[int, int]:
    """Read height and width of the upright image from its header; raises PivlError as others."""
    return read_header(path).size_hw


class ImageHeader(NamedTuple):
    """What the header of an image says: height and width when upright, format and stored mode."""

    size_hw: tuple[int, int]
    format: str | None
    mode: str


def read_header(path: Path, what: str = "image") -> ImageHeader:
    """Read the header of an image; raises PivlError "Cannot read the `what` ..." as others."""
    with _errors_name(path, what), _opened(path, None) as image:
        width, height = image.size  # Pillow turns TIFF files itself
        turned = image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8)
        size_hw = (width, height) if turned else (height, width)
        return ImageHeader(size_hw, image.format, image.mode)


def is_turned(path: Path, data: bytes) -> bool:
    """Whether an EXIF orientation turns or mirrors the image in the bytes `data` of `path`."""
    with _errors_name(path, "image"), _opened(path, data) as image:
        return _orientation(image) != 1


@contextmanager
def _errors_name(path: Path, what: str) -> Iterator[None]:
    """Turn every exception inside into a PivlError: decoders raise any kind on damaged files."""
    try:
        yield
    except PivlError:
        raise
    except Exception as error:
        raise PivlError(f"Cannot read the {what} {path}: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is no image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    text = getattr(error, "strerror", None) or str(error)
    known = isinstance(error, (OSError, Image.DecompressionBombError, _UnsupportedError))
    return text if known else f"{type(error).__name__}: {text}"


class _UnsupportedError(Exception):
    """An image that decodes but is not accepted."""


def _opened(path: Path, data: bytes | None) -> Image.Image:
    """Open an image of a size that may be decoded, and read its header."""
    if data is None:
        _check_file(path)
    Image.preinit()  # else Pillow imports all its plugins to find the first formats
    image = Image.open(path if data is None else io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MAX_IMAGE_PIXELS or max(image.size) > MAX_IMAGE_SIDE:
        size = f"{image.width}×{image.height}"
        image.close()
        raise _UnsupportedError(
            f"it has {size} pixels, more than {MAX_IMAGE_PIXELS:,} or {MAX_IMAGE_SIDE:,} along a"
            " side; crop it"
        )
    return image


def _check_file(path: Path) -> None:
    """Raise PivlError if a file is too large, or a device or pipe, which would block."""
    if path.exists():
        check_size(path, MAX_IMAGE_BYTES)


def _decode(path: Path, data: bytes | None) -> Image.Image:
    """Decode an image in its stored mode and turn it upright."""
    data = read_contents(path) if data is None else data
    with _opened(path, data) as image:
        if image.format in ("JPEG", "MPO") and data.count(_JPEG_SCAN) > MAX_JPEG_SCANS:
            raise _UnsupportedError(f"it has more than {MAX_JPEG_SCANS} scans; save it again")
        image.load()
        if _orientation(image, loaded=True) == 1:
            return image
        upright = ImageOps.exif_transpose(image)
        upright.format = image.format
        return upright


def _orientation(image: Image.Image, *, loaded: bool = False) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if there is none or the EXIF is damaged.

    A PNG is decoded to look for EXIF behind its pixels only if it is `loaded` already.
    """
    try:
        exif = image.getexif() if loaded else Image.Image.getexif(image)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB. Pillow's own conversion of 16-bit grey would clip it to white."""
    if image.mode == "RGB":
        return image
    sixteen_bits = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")  # of at most 16 bits
    )
    if sixteen_bits:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise _UnsupportedError("it has 32-bit pixels of unknown range; save it with 8 or 16 bits")
    return image.convert("RGB")
