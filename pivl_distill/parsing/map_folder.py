"""A folder of part maps as `data.parsing` reads it, written map by map and safe to interrupt.

`parsing.json` is written first and says whose maps these are, so that another parser's are never
mixed in; each map appears whole or not at all, and those that are there are kept.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pivl_distill.data.part_maps import MANIFEST, PartMap, map_values, unknown_value
from pivl_distill.data.vocabulary import Vocabulary, voc_palette
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage.files import (
    LOCK,
    is_empty,
    locked,
    remove_partial,
    write_bytes,
    write_json,
)

FORMAT = 1
_PALETTE = voc_palette(256).tobytes()


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Inside, no other command writes maps to the folder; PivlError if one does already.

    Process 0 holds the lock for all that share its work. Another command would remove what these
    are just writing.
    """
    if process_group.rank() or folder.is_file():  # which is refused
        yield
        return
    lock = folder / LOCK
    with locked(lock, f"Another process is writing maps to {folder}; wait for it or stop it."):
        try:
            yield
        finally:
            with suppress(OSError):  # open files cannot be removed everywhere
                lock.unlink()


class MapFolder:
    """Maps of one parser in one vocabulary; whoever writes to it is `lock_folder` there."""

    def __init__(self, path: Path, vocabulary: Vocabulary, parser: dict[str, Any]) -> None:
        """Open or begin the folder; PivlError if it holds other maps, or something else."""
        self.path = path
        self.vocabulary = vocabulary
        manifest = {
            "format": FORMAT,
            "vocabulary": vocabulary.name,
            "labels": vocabulary.labels,
            "parser": parser,
        }
        self.manifest: dict[str, Any] = json.loads(json.dumps(manifest))  # as it will be read back
        self._claim()

    def map_path(self, image: Path) -> Path:
        """The file of the map of `image`, a path below the data set's root."""
        return self.path / image.with_suffix(".png")

    def has_map(self, image: Path, size_hw: tuple[int, int]) -> bool:
        """Whether a whole map of this size is there, from an earlier run."""
        path = self.map_path(image)
        if not path.is_file():
            return False
        try:
            values = map_values(path)
        except PivlError:
            return False
        return values.shape == size_hw and unknown_value(values, self.vocabulary) is None

    def read(self, image: Path) -> np.ndarray:
        """The map of an image, uint8 [H, W]."""
        return map_values(self.map_path(image))

    def write(self, image: Path, part_map: PartMap) -> None:
        """Write one map atomically: a picture in colours, or with the confidence behind it."""
        picture = Image.fromarray(part_map.labels)
        if part_map.confidence is None:
            picture.putpalette(_PALETTE)
        else:
            picture.putalpha(Image.fromarray(part_map.confidence))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        write_bytes(self.map_path(image), buffer.getvalue())

    def finish(self, maps: int) -> None:
        """Say in `parsing.json` how many maps the finished folder holds."""
        write_json(self.path / MANIFEST, {**self.manifest, "maps": maps})

    def _claim(self) -> None:
        path = self.path / MANIFEST
        if path.is_file():
            if differences := _differences(_read(path), self.manifest):
                raise PivlError(
                    f"{self.path} holds maps that were made otherwise: {'; '.join(differences)}."
                    " Name another folder with --out, or remove this one."
                )
            self._remove_partial()
            return
        if self.path.is_file() or not is_empty(self.path):
            raise PivlError(
                f"{self.path} is there already and holds no {MANIFEST}; name another folder with"
                " --out."
            )
        self._remove_partial()
        write_json(path, self.manifest)

    def _remove_partial(self) -> None:
        """Only the first process may: it is here before the others write maps."""
        if not process_group.rank():
            remove_partial(self.path)


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PivlError(f"{path} is damaged: {error}. Remove it with its maps.") from error
    return manifest if isinstance(manifest, dict) else {}


def _differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, as `vocabulary was atr18, is lip20`; how many maps there are may."""
    was, is_now = _flat(there), _flat(now)
    keys = [key for key in {**is_now, **was} if key not in ("maps", "labels")]
    return [
        f"{key} was {was.get(key)}, is {is_now.get(key)}"
        for key in keys
        if was.get(key) != is_now.get(key)
    ]


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    parser = manifest.get("parser")
    if not isinstance(parser, dict):
        return manifest
    return {
        **{k: v for k, v in manifest.items() if k != "parser"},
        **{f"parser {k}": v for k, v in parser.items()},
    }
