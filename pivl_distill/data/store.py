"""Decoded crops and part maps: decoded once for all epochs, and cached on disk for later runs.

A crop of 256×128 takes 96 KiB and its map 32 KiB: Market-1501's training split takes 1.6 GiB.
Resizing is bilinear with antialiasing (Pillow), like torchvision's and like the runtime's.

Decoded pixels are memory-mapped from the cache folder, so that data sets may be larger than memory
and processes of one machine share them. The key of a cache entry is a hash of the bytes of all
files, in order, and of the decoding settings. Therefore any changed image invalidates the entry,
and a data set that was moved still hits it. Crops and maps are separate entries: new maps do not
decode crops again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
from PIL import features

from pivl_distill.config import DataSettings
from pivl_distill.console import track
from pivl_distill.data.images import read_contents, read_crop
from pivl_distill.data.part_maps import FULL_CONFIDENCE, read_confidence, read_map
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage import array_cache
from pivl_distill.storage.cache_dir import cache_dir

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT_VERSION = 2
"""Part of every cache key; increment it when the same files and settings decode differently."""

PIXEL = np.dtype(np.uint8)
CHUNK_FILES = 256
"""Number of files decoded before their pixels are written: 24 MiB of crops of 256×128."""


@dataclass(frozen=True)
class CropStore:
    """N crops with their labels, in the order of their records."""

    crops: np.ndarray
    """uint8 RGB [N, H, W, 3]."""
    maps: np.ndarray | None
    """Part labels uint8 [N, H, W]; None if no vocabulary was given."""
    pids: np.ndarray
    """int64 [N]."""
    camids: np.ndarray | None
    """int64 [N]; None if any camera is unknown."""
    missing_maps: int = 0
    """Number of images without a map; every pixel of their map is IGNORE."""
    confidence: np.ndarray | None = None
    """The parser's confidence uint8 [N, H, W]."""
    contents: Mapping[str, str | None] = field(default_factory=dict)
    """SHA-256 (hex) of the bytes of all "images" and all "maps", if requested."""

    def __len__(self) -> int:
        return len(self.pids)

    def first(self, count: int) -> CropStore:
        """Return the first `count` crops, or all, without maps and confidence."""
        camids = None if self.camids is None else self.camids[:count]
        return CropStore(self.crops[:count], None, self.pids[:count], camids)

    def concatenated(self, other: CropStore) -> CropStore:
        """Return the crops of both stores, without maps; camera ids only if both have them."""
        return CropStore(
            crops=np.concatenate([self.crops, other.crops]),
            maps=None,
            pids=np.concatenate([self.pids, other.pids]),
            camids=_concatenate(self.camids, other.camids),
        )

    @classmethod
    def load(
        cls,
        records: Sequence[Record],
        size_hw: tuple[int, int],
        vocabulary: Vocabulary | None = None,
        what: str = "crops",
        *,
        confidence: bool = False,
        cache_gib: float = 0.0,
        hash_files: bool = False,
    ) -> CropStore:
        """Decode the records' images and, with a vocabulary, their part maps.

        Args:
            records: N images.
            size_hw: height and width to resize to, in pixels.
            vocabulary: vocabulary of the part maps; None decodes no maps.
            what: what the images are called in progress messages.
            confidence: whether to decode the maps' confidence too.
            cache_gib: limit of all decoded pixels in the cache folder, in GiB; 0 disables it.
            hash_files: whether to compute `contents`.

        Raises: PivlError that names the first file that cannot be read.
        """
        crop_decoder = _crop_decoder(records, size_hw, what)
        map_decoder = _map_decoder(records, size_hw, vocabulary) if vocabulary else None
        crops = crop_decoder.pixels(cache_gib)
        maps, map_confidence, contents = None, None, {}
        if map_decoder:
            maps = map_decoder.pixels(cache_gib)
            if confidence:
                map_confidence = _confidence_decoder(records, size_hw).pixels(cache_gib)
        if hash_files:
            map_hash = map_decoder.content_hash if map_decoder else None
            contents = {"images": crop_decoder.content_hash, "maps": map_hash}
        return cls(
            crops=crops,
            maps=maps,
            pids=np.array([record.pid for record in records], dtype=np.int64),
            camids=_camids(records),
            missing_maps=sum(record.parsing is None for record in records) if vocabulary else 0,
            confidence=map_confidence,
            contents=contents,
        )


def iterate_crops(
    records: Sequence[Record], size_hw: tuple[int, int], what: str = "crops"
) -> Iterator[np.ndarray]:
    """Yield the crops of `CropStore.load`, uint8 RGB [≤ `CHUNK_FILES`, H, W, 3], in order.

    Nothing is kept; arguments and errors are those of `CropStore.load`.
    """
    for batch in _crop_decoder(records, size_hw, what).batches():
        yield batch["pixels"]


def _concatenate(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray | None:
    return None if first is None or second is None else np.concatenate([first, second])


def load_training_crops(
    records: Sequence[Record],
    settings: DataSettings,
    vocabulary: Vocabulary | None = None,
    *,
    confidence: bool = False,
) -> CropStore:
    """Load training crops, with maps if there is a vocabulary, and hash their files."""
    store = CropStore.load(
        records,
        settings.size_hw,
        vocabulary,
        confidence=confidence,
        cache_gib=settings.crop_cache_gib,
        hash_files=True,
    )
    if store.confidence is not None and (store.confidence == FULL_CONFIDENCE).all():
        logger.warning(
            "No part map stores confidence (write_confidence): all pixels have the same weight."
        )
    return store


def _camids(records: Sequence[Record]) -> np.ndarray | None:
    camids = [record.camid for record in records]
    return None if None in camids else np.array(camids, dtype=np.int64)


@dataclass(frozen=True)
class _FileDecoder:
    """Decodes N files to uint8 [N, *size]; a path of None becomes IGNORE."""

    what: str
    """Name of the files in progress messages."""
    paths: Sequence[Path | None]
    size: tuple[int, ...]
    read: Callable[[Path], np.ndarray]
    metadata: dict[str, Any]
    """Everything else that determines the pixels, as JSON values; part of the cache key."""

    def pixels(self, cache_gib: float) -> np.ndarray:
        """Return all pixels uint8 [N, *size], through the cache folder if its limit allows."""
        shape, limit = (len(self.paths), *self.size), int(cache_gib * 2**30)
        if limit:
            entry = cache_dir() / "crops" / self.key()
            arrays = array_cache.load_or_create(
                entry, {"pixels": shape}, PIXEL, self.batches, limit, f"decoded {self.what}"
            )
            if arrays is not None:
                return arrays["pixels"]
        pixels = np.empty(shape, PIXEL)
        start = 0
        for batch in self.batches():
            chunk = batch["pixels"]
            pixels[start : start + len(chunk)] = chunk
            start += len(chunk)
        return pixels

    def key(self) -> str:
        """Return the cache key: SHA-256 (hex) of everything that determines the pixels."""
        decoder = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"
        inputs = {
            "version": FORMAT_VERSION,
            "decoder": decoder,
            "size": self.size,
            "files": self.content_hash,
            **self.metadata,
        }
        return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()

    @functools.cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the bytes of every file, in order; it does not depend on their paths.

        One process per machine reads the files, because another machine may have other files.
        """
        return process_group.broadcast_object_on_node(self._hash_files)

    def _hash_files(self) -> str:
        digest = hashlib.sha256()
        for file_digest in self._map_files(_file_digest, f"Hashing {self.what}"):
            digest.update(file_digest)
        return digest.hexdigest()

    def batches(self) -> Iterator[array_cache.Batch]:
        """Yield the pixels of `CHUNK_FILES` files at a time."""
        decoded = self._map_files(self._decode, f"Reading {self.what}")
        while chunk := list(islice(decoded, CHUNK_FILES)):
            yield {"pixels": np.stack(chunk)}

    def _decode(self, path: Path | None) -> np.ndarray:
        return np.full(self.size, IGNORE, PIXEL) if path is None else self.read(path)

    def _map_files(self, work: Callable[[Path | None], T], description: str) -> Iterator[T]:
        """Yield `work(path)` of every path in order, computed in threads one chunk ahead."""
        starts = range(0, len(self.paths), CHUNK_FILES)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            chunks = (pool.map(work, self.paths[start : start + CHUNK_FILES]) for start in starts)
            done = chain.from_iterable(chunks)
            yield from track(done, description, total=len(self.paths), unit="files")


def _crop_decoder(records: Sequence[Record], size_hw: tuple[int, int], what: str) -> _FileDecoder:
    return _FileDecoder(
        what=what,
        paths=[record.path for record in records],
        size=(*size_hw, 3),
        read=functools.partial(read_crop, size_hw=size_hw),
        metadata={"pixels": "crops"},
    )


def _map_decoder(
    records: Sequence[Record], size_hw: tuple[int, int], vocabulary: Vocabulary
) -> _FileDecoder:
    return _FileDecoder(
        what="part maps",
        paths=[record.parsing for record in records],
        size=size_hw,
        read=functools.partial(read_map, size_hw=size_hw, vocabulary=vocabulary),
        metadata={
            "pixels": "maps",
            "vocabulary": (vocabulary.name, vocabulary.labels, vocabulary.background),
        },
    )


def _confidence_decoder(records: Sequence[Record], size_hw: tuple[int, int]) -> _FileDecoder:
    return _FileDecoder(
        what="confidence of the part maps",
        paths=[record.parsing for record in records],
        size=size_hw,
        read=functools.partial(read_confidence, size_hw=size_hw),
        metadata={"pixels": "confidence"},
    )


def _file_digest(path: Path | None) -> bytes:
    """SHA-256 of a file's bytes; zeros without a file."""
    if path is None:
        return bytes(32)
    try:
        return hashlib.sha256(read_contents(path)).digest()
    except OSError as error:
        raise PivlError(f"Cannot read {path}: {error}.") from error
