"""Reading crops; errors name the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pivl_distill.data.images import read_crop, resize_crop
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
