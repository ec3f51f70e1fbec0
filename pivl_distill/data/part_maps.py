"""Part maps (parsing maps): their layout on disk, reading one, and reducing them to the grid.

A map is a PNG whose pixel values are class ids of a vocabulary, or 255 where the class is unknown;
`parsing.json` in the same folder names the vocabulary. An optional second channel, stored as
transparency, is the parser's confidence. π-VL needs one label per feature (P in Eq. 5–7), but its
maps have image resolution: each grid cell takes its majority label, because nearest-neighbour
sampling loses glasses, gloves and socks. `pivl_distill.parsing` creates such maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pivl_distill.data.images import read_header, read_stored_image
from pivl_distill.data.vocabulary import IGNORE, Vocabulary, get_vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import VOCABULARY_FILE
from pivl_distill.storage.readers import read_json

FULL_CONFIDENCE = 255
"""A confidence of 1."""


@dataclass(frozen=True)
class PartMap:
    """A parser's output for one crop."""

    labels: np.ndarray
    """uint8 [H, W] class ids, IGNORE where unknown."""
    confidence: np.ndarray | None = None
    """uint8 [H, W] probability of the label × 255; None if the parser has no probabilities."""


def folder_vocabulary(folder: Path) -> Vocabulary:
    """Return the vocabulary that `parsing.json` in a folder of maps names."""
    path = folder / VOCABULARY_FILE
    remedy = f'write {{"vocabulary": "lip20"}} into {path} (or the vocabulary your parser uses)'
    if not path.is_file():
        raise PivlError(
            f"The parsing maps in {folder} have no {VOCABULARY_FILE} that names their vocabulary:"
            f" {remedy}."
        )
    try:
        name = read_json(path, "a description of maps")["vocabulary"]
    except (PivlError, KeyError) as error:
        raise PivlError(f"{path} names no vocabulary: {remedy}.") from error
    return get_vocabulary(str(name), path)


def find_map(folder: Path, image: Path, *, flat: bool = True) -> Path | None:
    """Find the map of `image`, a path relative to the dataset's root, in a folder of maps.

    Layouts in order of preference: `<split>/.../<stem>.png` (the same subfolders as the images),
    and if `flat` also `<split>_parsing_pgt/<stem>.png` (ISP-reID), `<split>/<stem>.png` and
    `<stem>.png` (SCHP's output). None if there is no map.
    """
    paths = (
        folder / subfolder / f"{image.stem}{suffix}"
        for subfolder in _map_subfolders(image, flat)
        for suffix in (".png", ".PNG")
    )
    return next((path for path in paths if path.is_file()), None)


def no_map_error(folder: Path, image: Path, *, flat: bool = True) -> PivlError:
    """Return the error for a folder without a map of any image, such as `image`, of a data set."""
    names = ", ".join(
        (subfolder / f"{image.stem}.png").as_posix() for subfolder in _map_subfolders(image, flat)
    )
    maps = (path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    first = next((f"has {path.relative_to(folder).as_posix()}" for path in maps), "has no PNG file")
    return PivlError(
        f"No parsing map in {folder} belongs to a training image. A map has the image's name and"
        f" the suffix .png: for {image.as_posix()}, looked for {names}; the folder {first}."
    )


def _map_subfolders(image: Path, flat: bool) -> list[Path]:
    split = image.parts[0]
    subfolders = [image.parent, Path(f"{split}_parsing_pgt"), Path(split), Path()]
    return list(dict.fromkeys(subfolders)) if flat else subfolders[:1]


def read_map(path: Path, size_hw: tuple[int, int], vocabulary: Vocabulary) -> np.ndarray:
    """Read the class ids uint8 [H, W] of one map, resized by nearest neighbour.

    Raises PivlError if the file is not a palette or grey PNG or has values outside the vocabulary.
    """
    values = read_stored_labels(path)
    if (unknown := unknown_value(values, vocabulary)) is not None:
        raise PivlError(
            f"{path} has the value {unknown}, but the last class of '{vocabulary.name}' is "
            f"{len(vocabulary) - 1} ({IGNORE} means unknown). Name the parser's own vocabulary in "
            f"{VOCABULARY_FILE}, or map its labels to this one."
        )
    return np.array(Image.fromarray(values).resize(size_hw[::-1], Image.Resampling.NEAREST))


def read_confidence(path: Path, size_hw: tuple[int, int]) -> np.ndarray:
    """Read a map's confidence uint8 [H, W], resized bilinearly; FULL_CONFIDENCE if it has none."""
    confidence = read_stored_map(path).confidence
    if confidence is None:
        return np.full(size_hw, FULL_CONFIDENCE, np.uint8)
    return np.array(Image.fromarray(confidence).resize(size_hw[::-1], Image.Resampling.BILINEAR))


def read_stored_labels(path: Path) -> np.ndarray:
    """Read class ids uint8 [H, W] at the stored size; raises PivlError like `read_stored_map`."""
    return read_stored_map(path).labels


def read_stored_map(path: Path) -> PartMap:
    """Read a map at its stored size; raises PivlError if the file is not a PNG of class ids."""
    image = read_stored_image(path, "part map")
    _check_kind(path, image.format, image.mode)
    values = np.asarray(image)
    return PartMap(values) if values.ndim == 2 else PartMap(values[..., 0], values[..., 1])


def read_map_size(path: Path) -> tuple[int, int]:
    """Read height and width of a map, from its header; raises PivlError like `read_stored_map`."""
    header = read_header(path, "part map")
    _check_kind(path, header.format, header.mode)
    return header.size_hw


def _check_kind(path: Path, image_format: str | None, mode: str) -> None:
    if image_format != "PNG" or mode not in ("P", "L", "LA"):
        raise PivlError(
            f"{path} is a {image_format} of mode {mode}, not a part map. Class ids need a "
            "single-channel 8-bit PNG (palette or grey): JPEG changes them, and a colour image is "
            "only a picture of them. Save the parser's raw output."
        )


def unknown_value(values: np.ndarray, vocabulary: Vocabulary) -> int | None:
    """Return the first value that is neither a class of the vocabulary nor IGNORE, or None."""
    unknown = values[(values >= len(vocabulary)) & (values != IGNORE)]
    return int(unknown[0]) if unknown.size else None


def cell_parts(
    maps: Tensor, grid_hw: tuple[int, int], num_parts: int, rule: Literal["majority", "nearest"]
) -> Tensor:
    """P of Eq. 5 on the grid: uint8 [B, H, W] → long [B, h, w], by majority or by cell centre."""
    if rule == "majority":
        return majority_labels(maps, grid_hw, num_parts)
    centres = F.interpolate(maps[:, None].float(), size=grid_hw, mode="nearest-exact")
    return centres[:, 0].long()


def majority_labels(maps: Tensor, grid_hw: tuple[int, int], num_parts: int) -> Tensor:
    """Majority label of each cell: uint8 [B, H, W] → long [B, h, w].

    A cell is IGNORE if fewer than half of its pixels have a known class; ties go to the lowest id.
    """
    counts = _count_labels(maps, grid_hw, num_parts)
    labels = counts[:, :num_parts].argmax(dim=1)
    unknown = 2 * counts[:, num_parts] > counts.sum(dim=1)
    return labels.masked_fill(unknown, IGNORE)


def part_shares(maps: Tensor, grid_hw: tuple[int, int], num_parts: int) -> Tensor:
    """Share of each label in each cell's pixels: uint8 [B, H, W] → float [B, P, h, w].

    Shares of a cell sum to one minus the share of its IGNORE pixels.
    """
    counts = _count_labels(maps, grid_hw, num_parts).float()
    return counts[:, :num_parts] / counts.sum(dim=1, keepdim=True)


def _count_labels(maps: Tensor, grid_hw: tuple[int, int], num_parts: int) -> Tensor:
    """Count pixels per label and cell: int [B, P + 1, h, w], IGNORE pixels last.

    A pixel belongs to the cell that contains its centre, so a map at least as large as the grid
    needs no interpolation.
    """
    (batch, *size_hw), (grid_h, grid_w), labels = maps.shape, grid_hw, num_parts + 1
    if size_hw[0] < grid_h or size_hw[1] < grid_w:
        raise ValueError(f"maps of {tuple(size_hw)} pixels are smaller than the grid {grid_hw}")
    row, column = (
        torch.arange(1, 2 * pixels, 2, dtype=torch.int32, device=maps.device)
        * cells
        // (2 * pixels)
        for pixels, cells in zip(size_hw, grid_hw, strict=True)
    )
    image = torch.arange(batch, dtype=torch.int32, device=maps.device)
    # One buffer, updated in place: allocating new ones would cost more than the counting.
    bins = maps.clamp(max=num_parts).int()
    bins += (row[:, None] * grid_w + column) * labels
    bins += (image * grid_h * grid_w * labels)[:, None, None]
    # Not bincount, which synchronises with the device to find the largest bin.
    counts = bins.new_zeros(batch * grid_h * grid_w * labels)
    counts.index_add_(0, bins.flatten(), bins.new_ones(1).expand(bins.numel()))
    return counts.view(batch, grid_h, grid_w, labels).permute(0, 3, 1, 2)
