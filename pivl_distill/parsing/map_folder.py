"""A folder of parsing maps, in the layout that `data.part_maps` reads; safe to interrupt.

`parsing.json` is written first and identifies the parser, so maps of two parsers are never mixed.
Each map is written atomically. An interrupted run keeps the maps that are complete.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivl_distill.data.part_maps import PartMap, read_stored_labels, unknown_value
from pivl_distill.data.vocabulary import Vocabulary, voc_palette
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage.filenames import VOCABULARY_FILE
from pivl_distill.storage.files import (
    is_empty,
    remove_partial,
    write_bytes,
    write_json,
)
from pivl_distill.storage.locks import locked_folder
from pivl_distill.storage.paths import is_inside
from pivl_distill.storage.readers import read_json

FORMAT = 1
_PALETTE = voc_palette(256).tobytes()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock the folder against other commands; raise PivlError if another command writes there.

    Process 0 holds the lock for all processes of a group. Without it, another command would remove
    partial files that are being written.
    """
    if process_group.rank() or folder.is_file():  # `MapFolder` rejects a file
        yield
        return
    refusal = f"Another process is writing maps to {folder}; wait for it or stop it."
    with locked_folder(folder, refusal):
        yield


class MapFolder:
    """Maps of one parser in one vocabulary. Writers must hold `lock_folder`."""

    def __init__(self, path: Path, vocabulary: Vocabulary, parser: dict[str, Any]) -> None:
        """Open or create the folder; raise PivlError if it contains other maps or other files.

        `parser` is the parser's metadata.
        """
        self.path = path
        self.vocabulary = vocabulary
        manifest = {
            "format": FORMAT,
            "vocabulary": vocabulary.name,
            "labels": vocabulary.labels,
            "parser": parser,
        }
        self.manifest: dict[str, Any] = json.loads(json.dumps(manifest))  # as read from the file
        self._claim()

    def map_path(self, image: Path) -> Path:
        """Return the file of the map of `image`, a path relative to the data set's root."""
        return self.path / image.with_suffix(".png")

    def has_map(self, image: Path, size_hw: tuple[int, int]) -> bool:
        """Return whether a valid map of this size exists, from an earlier run."""
        path = self.map_path(image)
        if not path.is_file():
            return False
        try:
            values = read_stored_labels(path)
        except PivlError:
            return False
        return values.shape == size_hw and unknown_value(values, self.vocabulary) is None

    def read(self, image: Path) -> np.ndarray:
        """Return the class ids of an image's map, uint8 [H, W]."""
        return read_stored_labels(self.map_path(image))

    def write(self, image: Path, part_map: PartMap) -> None:
        """Write one map atomically: a palette PNG, or grey with the confidence as alpha channel."""
        picture = Image.fromarray(part_map.labels)
        if part_map.confidence is None:
            picture.putpalette(_PALETTE)
        else:
            picture.putalpha(Image.fromarray(part_map.confidence))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        path = self.map_path(image)
        if not is_inside(path, self.path):
            raise PivlError(f"{path} is in a link to outside of {self.path}; remove the link.")
        write_bytes(path, buffer.getvalue())

    def finish(self, maps: int) -> None:
        """Record the number of maps in `parsing.json`, which marks the folder as complete."""
        write_json(self.path / VOCABULARY_FILE, {**self.manifest, "maps": maps})

    def _claim(self) -> None:
        """Write the manifest, or compare it with the existing one."""
        path = self.path / VOCABULARY_FILE
        if path.is_file():
            if differences := _differences(_read(path), self.manifest):
                raise PivlError(
                    f"{self.path} contains maps of another parser or other settings:"
                    f" {'; '.join(differences)}. Name another folder with --out, or remove it."
                )
            self._remove_partial()
            return
        if self.path.is_file() or not is_empty(self.path):
            raise PivlError(
                f"{self.path} exists and contains no {VOCABULARY_FILE}; name another folder with"
                " --out."
            )
        self._remove_partial()
        write_json(path, self.manifest)

    def _remove_partial(self) -> None:
        """Remove partial files of interrupted writes, on process 0, before the others write."""
        if not process_group.rank():
            remove_partial(self.path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "a description of maps")
    except PivlError as error:
        raise PivlError(f"{path} is damaged: {error} Remove the folder and its maps.") from error


def _differences(stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """Return the differences, such as `vocabulary was atr18, is lip20`, except map counts."""
    before, now = _flat(stored), _flat(current)
    keys = [key for key in {**now, **before} if key not in ("maps", "labels")]
    return [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    parser = manifest.get("parser")
    if not isinstance(parser, dict):
        return manifest
    return {
        **{k: v for k, v in manifest.items() if k != "parser"},
        **{f"parser {k}": v for k, v in parser.items()},
    }
