"""Images: every format that is read, with damaged bytes, as crops of every command."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from fuzz.case import Case
from fuzz.mutation import damaged
from fuzz.uses import picture, use_each
from pivl_distill.data.images import is_turned, read_contents, read_crop, read_header, read_image
from pivl_distill.errors import PivlError

SIZE_HW = (16, 8)


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def _seeds() -> list[bytes]:
    return [
        picture("JPEG"),
        picture("JPEG", exif=_exif(), progressive=True),
        picture("JPEG", "CMYK"),
        picture("PNG"),
        picture("PNG", "RGBA", exif=_exif()),
        picture("PNG", "I;16"),
        picture("PNG", "P", bits=4),
        picture("BMP"),
        picture("GIF"),
        picture("PPM"),
        picture("WEBP"),
        picture("WEBP", "RGBA", lossless=True, exif=_exif()),
        picture("TIFF"),
        picture("TIFF", compression="tiff_lzw"),
        picture("TIFF", "I;16"),
    ]


def cases() -> st.SearchStrategy[Case]:
    """One image file, damaged, under a suffix that may be that of another format."""
    seeds = _seeds()
    tokens = [
        b"\xff\xda", b"\xff\xd9", b"IHDR", b"IEND", b"eXIf", b"Exif\0\0", b"II*\0", b"RIFF",
        b"WEBP", b"VP8X", b"ANIM", b"acTL", b"iCCP", b"zTXt", b"tRNS",
        struct.pack(">I", 2**31 - 1), *seeds,
    ]  # fmt: skip
    contents = st.sampled_from(seeds).flatmap(lambda seed: damaged(seed, tokens))
    every = contents | contents | contents | st.sampled_from(seeds) | st.binary(max_size=40)
    suffixes = st.sampled_from(["jpg", "png", "bmp", "webp", "tif", "JPG"])
    return st.builds(lambda suffix, data: Case({f"crop.{suffix}": data}), suffixes, every)


def use(given: Path, out: Path, options: Mapping[str, Any]) -> None:
    """Read header, picture and crop; all of them agree, also when the bytes are read before."""
    (path,) = given.iterdir()
    use_each(lambda: read_header(path), lambda: _decode(path))


def _decode(path: Path) -> None:
    data = read_contents(path)
    is_turned(path, data)
    image = read_image(path, data)
    assert image.mode == "RGB"
    assert image.size == read_image(path).size
    try:
        assert read_header(path).size_hw == image.size[::-1]
    except PivlError as error:
        raise AssertionError("the header is refused, but the image is not") from error
    crop = read_crop(path, SIZE_HW)
    assert (crop.shape, crop.dtype.name) == ((*SIZE_HW, 3), "uint8")
