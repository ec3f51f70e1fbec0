"""Convert existing maps: SCHP's output, RGB-coloured maps, maps with other values.

A map is found by the image's name, in a tree like the data set's or in one flat folder, as
documented in `data.part_maps.find_map`. Every stored value must be in the lookup table; any other
value raises an error that shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pivl_distill.data.images import read_stored_image
from pivl_distill.data.part_maps import PartMap, find_map, folder_vocabulary, no_map_error
from pivl_distill.data.vocabulary import IGNORE, Vocabulary, get_vocabulary
from pivl_distill.errors import PivlError
from pivl_distill.parsing.base import ParserInput, parser_metadata
from pivl_distill.parsing.settings import MapsSettings
from pivl_distill.storage.filenames import VOCABULARY_FILE

Table = dict[int, int]
"""Stored value, or colour as 0xRRGGBB, → class id or IGNORE."""


class ExistingMapsParser:
    """Parser of `kind: maps`, which reads maps instead of computing them."""

    batch_size = 16

    def __init__(self, name: str, settings: MapsSettings) -> None:
        """Open the folder of maps; `name` identifies the parser in the metadata."""
        assert settings.source is not None
        self.folder: Path = settings.source
        self.vocabulary = get_vocabulary(settings.vocabulary)
        check_maps_folder(self.folder, self.vocabulary)
        self.numbers, self.colours = lookup_tables(self.vocabulary, settings.values)
        self.metadata = {**parser_metadata(name, settings), "folder": str(self.folder.resolve())}

    def require_maps(self, images: Mapping[Path, bool]) -> None:
        """Raise PivlError if the folder has no map of any image: name → whether its stem is unique.

        The error names the files that were looked for.
        """
        if all(find_map(self.folder, name, flat=flat) is None for name, flat in images.items()):
            name, flat = next(iter(images.items()))
            raise no_map_error(self.folder, name, flat=flat)

    def parse(self, crops: Sequence[ParserInput]) -> list[PartMap | None]:
        """Return the map of each crop, in the crop's size, or None if the folder has none."""
        return [self._map(crop) for crop in crops]

    def _map(self, crop: ParserInput) -> PartMap | None:
        path = find_map(self.folder, crop.name, flat=crop.has_unique_stem)
        if path is None:
            return None
        image = read_stored_image(path, "part map")
        labels, (height, width) = self._labels(path, image), crop.pixels.shape[:2]
        if abs(labels.shape[0] * width / labels.shape[1] - height) > 1:
            raise PivlError(
                f"{path} is {labels.shape[1]}×{labels.shape[0]} pixels but its image {crop.name} is"
                f" {width}×{height}: the aspect ratios differ, so it is a map of another crop."
            )
        resized = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        if image.mode != "LA":
            return PartMap(np.array(resized))
        confidence = image.getchannel("A").resize((width, height), Image.Resampling.BILINEAR)
        return PartMap(np.array(resized), np.array(confidence))

    def _labels(self, path: Path, image: Image.Image) -> np.ndarray:
        """Return the class ids of a map, the file `path`, in its own size: uint8 [H, W]."""
        if image.format != "PNG" or image.mode not in ("P", "L", "LA", "RGB", "RGBA"):
            raise PivlError(
                f"{path} is a {image.format} of mode {image.mode}; maps must be palette, grey or"
                " RGB PNGs of 8 bits (JPEG changes their values)."
            )
        if not self.numbers or image.mode in ("RGB", "RGBA"):
            return _look_up(path, "#{:06x}", colour_codes(image), self.colours)
        return _look_up(path, "{}", np.asarray(image.getchannel(0)), self.numbers)


def check_maps_folder(folder: Path, vocabulary: Vocabulary) -> None:
    """Raise PivlError if the folder is missing or its manifest declares another vocabulary."""
    if not folder.is_dir():
        raise PivlError(f"The folder of maps {folder} does not exist.")
    if (folder / VOCABULARY_FILE).is_file() and (found := folder_vocabulary(folder)) != vocabulary:
        raise PivlError(
            f"{folder / VOCABULARY_FILE} declares maps in {found.name}, not {vocabulary.name}:"
            f" use --set vocabulary={found.name}."
        )


def lookup_tables(
    vocabulary: Vocabulary, values: dict[int | str, str] | None
) -> tuple[Table, Table]:
    """Return the tables of stored numbers and of colours → class id.

    Without `values` these are the class ids and the colours of PASCAL VOC.
    """
    if values is None:
        ids = {number: number for number in range(len(vocabulary))}
        return {**ids, IGNORE: IGNORE}, dict(
            zip(_codes(vocabulary.palette).tolist(), ids, strict=True)
        )
    numbers: Table = {}
    colours: Table = {}
    for stored, label in values.items():
        class_id = IGNORE if label == "ignore" else vocabulary.index(label)
        if isinstance(stored, int):
            numbers[stored] = class_id
        else:
            colours[int(stored.removeprefix("#"), 16)] = class_id
    return numbers, colours


def colour_codes(image: Image.Image) -> np.ndarray:
    """Return each pixel's colour as 0xRRGGBB, int64 [H, W]."""
    return _codes(np.asarray(image.convert("RGB")))


def _codes(rgb: np.ndarray) -> np.ndarray:
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _look_up(path: Path, number_format: str, stored: np.ndarray, table: Table) -> np.ndarray:
    """Look up stored values [H, W]: uint8 [H, W]. Raises PivlError for a value not in the table."""
    found, inverse = np.unique(stored, return_inverse=True)
    if unlisted := [code for code in found.tolist() if code not in table]:
        raise PivlError(
            f"{path} contains {number_format.format(unlisted[0])}, which has no class: choose the"
            " right vocabulary, or list the label of each value under 'values' in a parser's YAML"
            " file ('ignore' for none)."
        )
    labels = np.array([table[code] for code in found.tolist()], np.uint8)
    return labels[inverse].reshape(stored.shape)
