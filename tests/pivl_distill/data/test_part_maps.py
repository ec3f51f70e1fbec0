"""Part maps: reading them, and reducing them to the feature grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pivl_distill.data.part_maps import (
    folder_vocabulary,
    majority_labels,
    part_shares,
    read_map,
    read_map_size,
)
from pivl_distill.data.vocabulary import IGNORE, LIP20
from pivl_distill.errors import PivlError

PARTS = len(LIP20)


def random_maps(height: int, width: int, batch: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(0)
    values = np.where(rng.random((batch, height, width)) < 0.45, IGNORE, 0)
    parts = rng.integers(0, 4, values.shape)
    return torch.from_numpy(np.where(values == IGNORE, IGNORE, parts).astype(np.uint8))


def cell_pixels(plane: np.ndarray, grid_hw: tuple[int, int], row: int, column: int) -> list[int]:
    """Return the pixels whose centre is in the cell."""
    (height, width), (grid_h, grid_w) = plane.shape, grid_hw
    return [
        int(plane[y, x])
        for y in range(height)
        for x in range(width)
        if int((y + 0.5) * grid_h / height) == row and int((x + 0.5) * grid_w / width) == column
    ]


@pytest.mark.parametrize("mode", ["P", "L"])
def test_reads_palette_and_grey_values(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 255], [19, 13, 2]], dtype=np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(tmp_path / "map.png")
    np.testing.assert_array_equal(read_map(tmp_path / "map.png", (2, 3), LIP20), values)


def test_resizing_adds_no_class(tmp_path: Path) -> None:
    values = np.array([[1, 19], [13, 255]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    resized = read_map(tmp_path / "map.png", (6, 4), LIP20)
    np.testing.assert_array_equal(resized, values.repeat(3, axis=0).repeat(2, axis=1))
    assert resized.dtype == np.uint8


def test_file_that_is_not_a_map_is_an_error(tmp_path: Path) -> None:
    grey = np.zeros((4, 4), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "map.jpg")
    Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "colour.png")
    (tmp_path / "text.png").write_text("no image")
    for name, reason in [("map.jpg", "JPEG"), ("colour.png", "RGB"), ("text.png", "Cannot read")]:
        with pytest.raises(PivlError, match=reason) as caught:
            read_map(tmp_path / name, (4, 4), LIP20)
        assert name in str(caught.value)


def test_class_outside_the_vocabulary_is_an_error(tmp_path: Path) -> None:
    values = np.array([[0, 255], [20, 3]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "map.png")
    with pytest.raises(PivlError, match="value 20, but the last class of 'lip20' is 19"):
        read_map(tmp_path / "map.png", (1, 1), LIP20)


def test_parsing_json_names_the_vocabulary(tmp_path: Path) -> None:
    manifest = tmp_path / "parsing.json"
    with pytest.raises(PivlError, match=r"have no parsing\.json that names their vocabulary"):
        folder_vocabulary(tmp_path)
    for broken in ("{", "{}", "[1]"):
        manifest.write_text(broken)
        with pytest.raises(PivlError, match="names no vocabulary"):
            folder_vocabulary(tmp_path)
    manifest.write_text('{"vocabulary": "lip02"}')
    with pytest.raises(PivlError, match="did you mean 'lip20'"):
        folder_vocabulary(tmp_path)
    manifest.write_text('{"vocabulary": "lip20", "parser": "any"}')
    assert folder_vocabulary(tmp_path) is LIP20


@pytest.mark.parametrize("size_hw", [(12, 6), (13, 7), (4, 2)])
def test_majority_and_shares_equal_counting_pixels(size_hw: tuple[int, int]) -> None:
    maps, grid_hw = random_maps(*size_hw), (4, 2)
    labels, shares = majority_labels(maps, grid_hw, PARTS), part_shares(maps, grid_hw, PARTS)
    assert labels.dtype == torch.long
    assert shares.shape == (3, PARTS, 4, 2)
    for image in range(3):
        for row, column in np.ndindex(grid_hw):
            pixels = cell_pixels(maps[image].numpy(), grid_hw, row, column)
            counts = np.bincount(pixels, minlength=256)
            known = counts[:PARTS].sum()
            majority = counts[:PARTS].argmax() if 2 * known >= len(pixels) else IGNORE
            assert labels[image, row, column] == majority
            np.testing.assert_allclose(
                shares[image, :, row, column], counts[:PARTS] / len(pixels), rtol=1e-6
            )


def test_cell_needs_half_of_its_pixels_known() -> None:
    half = torch.tensor([[[7, IGNORE], [IGNORE, 7]]], dtype=torch.uint8)
    less = torch.tensor([[[7, IGNORE], [IGNORE, IGNORE]]], dtype=torch.uint8)
    assert majority_labels(half, (1, 1), PARTS).item() == 7
    assert majority_labels(less, (1, 1), PARTS).item() == IGNORE
    assert part_shares(less, (1, 1), PARTS).sum().item() == 0.25


def test_majority_keeps_small_parts() -> None:
    maps = torch.zeros(1, 8, 8, dtype=torch.uint8)
    maps[:, 1:4, 1:4] = 4  # sunglasses, off the corner pixel that sampling takes
    assert majority_labels(maps, (2, 2), PARTS).tolist() == [[[4, 0], [0, 0]]]


def test_grid_finer_than_the_map_is_an_error() -> None:
    with pytest.raises(ValueError, match="smaller than the grid"):
        majority_labels(random_maps(4, 4), (8, 4), PARTS)


def test_size_of_a_map_is_read_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "map.png"
    labels = np.random.default_rng(0).integers(0, 20, (64, 32), dtype=np.uint8)
    Image.fromarray(labels).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    assert read_map_size(path) == (64, 32)
    Image.new("RGB", (8, 16)).save(path)
    with pytest.raises(PivlError, match="mode RGB, not a part map"):
        read_map_size(path)
    path.write_bytes(b"no map")
    with pytest.raises(PivlError, match=r"Cannot read the part map .*map\.png"):
        read_map_size(path)
