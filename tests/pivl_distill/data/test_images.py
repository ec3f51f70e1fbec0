"""Reading crops; errors name the file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from pivl_distill.data.images import (
    is_turned,
    read_crop,
    read_image,
    read_pixels,
    read_size_hw,
    read_stored_image,
    resize_crop,
)
from pivl_distill.errors import PivlError


def test_grey_images_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 9).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_crop(tmp_path / "grey.png", (2, 2)), np.full((2, 2, 3), 9))


def test_downsampling_averages(tmp_path: Path) -> None:
    board = (np.indices((32, 32)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    shrunk = read_crop(tmp_path / "board.png", (4, 4)).astype(int)
    assert abs(shrunk - 127).max() < 10


def test_crop_of_the_right_size_is_unchanged() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_crop(Image.fromarray(crop), (8, 4)), crop)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_error_names_an_undecodable_file(tmp_path: Path, kind: str) -> None:
    """Damage that only changes pixels is not detected."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    path, data = tmp_path / "crop", buffer.getvalue()
    messages = []
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            assert read_crop(path, (4, 4)).shape == (4, 4, 3)
        except PivlError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    "raised",
    [
        IndexError("index out of range"),
        struct.error("unpack requires a buffer"),
        SyntaxError("broken PNG file"),
        Image.DecompressionBombError("too large"),
        MemoryError(),
        OSError("image file is truncated"),
        PermissionError(13, "Permission denied"),
        KeyError("tile"),
        ZeroDivisionError(),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fail(self: object) -> None:
        raise raised

    path = tmp_path / "crop.png"
    Image.new("L", (4, 4)).save(path)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    for read, what in (
        (lambda: read_crop(path, (4, 4)), "image"),
        (lambda: read_pixels(path), "image"),
        (lambda: read_image(path, path.read_bytes()), "image"),
        (lambda: read_stored_image(path, "part map"), "part map"),
    ):
        with pytest.raises(PivlError, match=rf"^Cannot read the {what} .*crop\.png: .+\.$"):
            read()


@pytest.mark.parametrize("kind", [b"sRGB", b"IHDR", b"pHYs"])
def test_chunk_too_short_behind_the_pixels_of_a_png(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    data = buffer.getvalue()
    end = data.rindex(b"IEND") - 4
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    path = tmp_path / "late.png"
    path.write_bytes(data[:end] + chunk + data[end:])
    with pytest.raises(PivlError, match=r"Cannot read the image .*late\.png"):
        read_crop(path, (4, 4))


@pytest.mark.parametrize("content", [b"", b"no image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_files_of_other_formats_are_named(tmp_path: Path, content: bytes) -> None:
    """PostScript would start an interpreter."""
    path = tmp_path / "crop.jpg"
    path.write_bytes(content)
    for read in (read_pixels, read_size_hw):
        with pytest.raises(PivlError, match=r"crop\.jpg: it is no image of a known format"):
            read(path)
    with pytest.raises(PivlError, match=r"Cannot read the image .*gone\.jpg: No such file"):
        read_pixels(tmp_path / "gone.jpg")


def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (8200, 8200)).save(path)
    for read in (read_pixels, read_size_hw):
        with pytest.raises(PivlError, match=r"bomb\.png: it has 8200×8200 pixels, more than"):
            read(path)
    Image.new("1", (2**15 + 1, 1)).save(path)
    with pytest.raises(PivlError, match=r"bomb\.png: it has 32769×1 pixels, more than"):
        read_pixels(path)
    with path.open("wb") as file:
        file.truncate(2**40)
    for read in (read_pixels, read_size_hw):
        with pytest.raises(PivlError, match=r"bomb\.png has 1,048,576\.0 MiB, but"):
            read(path)


def test_jpegs_of_many_scans_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 128).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    assert read_image(tmp_path / "crop.jpg", data).size == (64, 64)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(PivlError, match=r"crop\.jpg: it has more than 50 scans; save it again"):
        read_image(tmp_path / "crop.jpg", data[:-2] + 100 * scan + data[-2:])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (read_pixels, read_size_hw):
        with pytest.raises(PivlError, match=r"pipe\.jpg is a folder, device or pipe"):
            read(tmp_path / "pipe.jpg")


GREY = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_keeps_its_high_byte(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"thermal{suffix}"
    Image.fromarray(GREY * 257).save(path)
    np.testing.assert_array_equal(read_pixels(path)[..., 0], GREY)
    np.testing.assert_array_equal(read_pixels(path)[..., 2], GREY)


def test_16_bit_colour_keeps_its_high_byte(tmp_path: Path) -> None:
    colour = np.stack([GREY, GREY.T, GREY[::-1]], axis=2) * 257
    for suffix in (".png", ".tiff"):
        path = tmp_path / f"colour{suffix}"
        assert cv2.imwrite(str(path), colour[..., ::-1])
        np.testing.assert_array_equal(read_pixels(path), colour >> 8)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bit_pixels_are_refused(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "range.tif"
    Image.fromarray(GREY.astype(kind)).save(path)
    with pytest.raises(PivlError, match=r"range\.tif: it has 32-bit pixels of unknown range"):
        read_pixels(path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.zeros((24, 16, 3), np.uint8)
    stored[:12], stored[:, :8, 0] = 200, 255  # four different quarters
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"phone{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}
    upright = np.rot90(stored, turns[orientation])
    if orientation in (2, 4, 5, 7):
        upright = upright[:, ::-1]
    pixels = read_pixels(path)
    assert pixels.shape == upright.shape
    assert abs(pixels.astype(int) - upright).mean() < 12
    assert read_size_hw(path) == upright.shape[:2]
    assert is_turned(path, path.read_bytes()) == (orientation != 1)
    turned_map = read_stored_image(path, "part map")
    assert (turned_map.height, turned_map.width) == upright.shape[:2]
    assert (
        turned_map.format
        == {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}[suffix]
    )


def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "crop.jpg", exif=b"Exif\0\0no tags at all")
    assert read_crop(tmp_path / "crop.jpg", (4, 4)).shape == (4, 4, 3)


@pytest.mark.parametrize("suffix", [".JPG", ".webp", ".tif", ".tiff", ".bmp", ".gif"])
def test_every_format_is_read(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / f"crop{suffix}")
    assert abs(read_crop(tmp_path / f"crop{suffix}", (4, 4)).astype(int) - 9).max() <= 1
