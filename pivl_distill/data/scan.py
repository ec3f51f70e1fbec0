"""Read all files of a dataset to find damaged images, duplicates and invalid maps."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pivl_distill.console import track
from pivl_distill.data.images import is_turned, read_contents, read_image
from pivl_distill.data.part_maps import read_stored_labels, unknown_value
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError

WRONG_KIND = "maps that are not a readable single-channel 8-bit PNG"
UNKNOWN_VALUES = "maps with values outside the vocabulary"
OTHER_SIZE = "maps whose size differs from their image"
MAP_FAULTS = (WRONG_KIND, UNKNOWN_VALUES, OTHER_SIZE)
TURNED = "mapped images that EXIF turns or mirrors (the map must show them upright)"


@dataclass(frozen=True)
class ScannedCrop:
    """One image file: SHA-256 of its bytes, None if undecodable; the fault of its map, if any."""

    name: str
    split: str
    record: Record
    digest: bytes | None
    map_fault: str | None = None
    turned: bool = False
    """Whether it has a map, and EXIF turns or mirrors its stored pixels."""


def scan_files(dataset: ReIDDataset) -> list[ScannedCrop]:
    """Read all images of the dataset and their maps."""
    crops = [(split, record) for split, records in dataset.splits.items() for record in records]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        scanned = pool.map(partial(_scan, dataset), *zip(*crops, strict=True))
        return list(track(scanned, "Checking files", total=len(crops), unit="images"))


def duplicates(
    crops: Iterable[ScannedCrop],
    others: Iterable[ScannedCrop],
    counts: Callable[[ScannedCrop, ScannedCrop], bool] = lambda crop, other: True,
) -> list[str]:
    """List `crops` with the same bytes as one of `others` that `counts`, as "name = other"."""
    by_digest: defaultdict[bytes | None, list[ScannedCrop]] = defaultdict(list)
    for other in others:
        if other.digest is not None:
            by_digest[other.digest].append(other)
    pairs = (
        (crop, next((o for o in by_digest[crop.digest] if o is not crop and counts(crop, o)), None))
        for crop in crops
        if crop.digest in by_digest
    )
    return [f"{crop.name} = {other.name}" for crop, other in pairs if other is not None]


def _scan(dataset: ReIDDataset, split: str, record: Record) -> ScannedCrop:
    name = dataset.relative(record.path).as_posix()
    try:
        data = read_contents(record.path)
        size_hw = read_image(record.path, data).size[::-1]
    except (OSError, MemoryError, PivlError):
        return ScannedCrop(name, split, record, None)
    digest = hashlib.sha256(data).digest()
    if record.parsing is None or dataset.vocabulary is None:
        return ScannedCrop(name, split, record, digest)
    fault = _map_fault(record.parsing, size_hw, dataset.vocabulary)
    return ScannedCrop(name, split, record, digest, fault, is_turned(record.path, data))


def _map_fault(path: Path, size_hw: tuple[int, int], vocabulary: Vocabulary) -> str | None:
    try:
        values = read_stored_labels(path)
    except PivlError:
        return WRONG_KIND
    if unknown_value(values, vocabulary) is not None:
        return UNKNOWN_VALUES
    return None if values.shape == size_hw else OTHER_SIZE
