"""Read the files of a dataset to find damaged images, duplicates and invalid maps.

`scan_files` reads every file, for `pivl-distill check`. `scan_headers` reads the headers only, in
seconds, so that every training run can afford it before its first step.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pivl_distill.console import track
from pivl_distill.data.images import is_turned, read_contents, read_image, read_size_hw
from pivl_distill.data.part_maps import read_map_size, read_stored_labels, unknown_value
from pivl_distill.data.records import Record, ReIDDataset
from pivl_distill.data.vocabulary import Vocabulary
from pivl_distill.errors import PivlError

WRONG_KIND = "maps that are not a readable single-channel 8-bit PNG"
UNKNOWN_VALUES = "maps with values outside the vocabulary"
OTHER_SIZE = "maps whose size differs from their image"
MAP_FAULTS = (WRONG_KIND, UNKNOWN_VALUES, OTHER_SIZE)
TURNED = "mapped images that EXIF turns or mirrors (the map must show them upright)"
HEADER_ONLY = b""
"""In place of the digest of an image of which only the header was read."""
QUIET_S = 2.0
"""Seconds before the progress of reading headers is shown."""


@dataclass(frozen=True)
class ScannedCrop:
    """One image file: SHA-256 of its bytes, None if unreadable; the fault of its map, if any.

    The digest is `HEADER_ONLY` if only the header was read.
    """

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


def scan_headers(splits: Mapping[str, Iterable[Record]], root: Path) -> list[ScannedCrop]:
    """Read the headers of images and their maps; names are relative to `root` where possible.

    Progress is shown if it takes longer than `QUIET_S`.
    """
    crops = [(split, record) for split, records in splits.items() for record in records]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        scanned = pool.map(lambda crop: _scan_header(root, *crop), crops)
        progress = track(
            scanned, "Checking headers", total=len(crops), unit="images", quiet_s=QUIET_S
        )
        return list(progress)


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


def _scan_header(root: Path, split: str, record: Record) -> ScannedCrop:
    path = record.path
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    try:
        size_hw = read_size_hw(path)
    except PivlError:
        return ScannedCrop(name, split, record, None)
    fault = None
    if record.parsing is not None:
        try:
            fault = None if read_map_size(record.parsing) == size_hw else OTHER_SIZE
        except PivlError:
            fault = WRONG_KIND
    return ScannedCrop(name, split, record, HEADER_ONLY, fault)


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
