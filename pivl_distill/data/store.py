"""Decoded crops and part maps: once for all epochs, and on disk for all later runs.

A crop of 256×128 takes 96 KiB and its map 32 KiB: Market-1501's training split fits in 1.6 GiB.
Resizing is bilinear and smooths when it shrinks (Pillow), as torchvision does for every codebase
of the field and as the deployed runtime does.

What is decoded is kept in the cache folder and mapped from there, so that data sets larger than
memory work and processes of one machine share it. It is found by what it was decoded from: the
bytes of every file, in order, and how they are read. So a changed image is noticed whatever its
name, size or time, and a data set that has moved is found. Crops and maps are kept apart: other
maps decode no crop again.
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
from pivl_distill.data.images import read_crop
from pivl_distill.data.part_maps import FULL_CONFIDENCE, read_confidence, read_map
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.errors import PivlError
from pivl_distill.storage import array_cache
from pivl_distill.storage.cache_dir import cache_dir

logger = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT_VERSION = 1
"""Part of every key: raise it when the same files and settings give other pixels."""

PIXEL = np.dtype(np.uint8)
CHUNK_FILES = 256
"""Files that are read before their pixels are written: 24 MiB of crops of 256×128."""


@dataclass(frozen=True)
class CropStore:
    """N crops with their labels, in the order of the records they were read from.

    `crops` uint8 RGB [N, H, W, 3]; `maps` uint8 [N, H, W] or None if no vocabulary was given;
    `pids` int64 [N]; `camids` int64 [N] or None if a camera is unknown. `missing_maps` images had
    no map: theirs is IGNORE throughout. `confidence` uint8 [N, H, W] says how sure the parser was,
    `teacher_embeddings` [N, F] are a teacher's embeddings of the crops, `contents` the hashes (hex)
    of the bytes of all `images` and `maps`, where they were asked for.
    """

    crops: np.ndarray
    maps: np.ndarray | None
    pids: np.ndarray
    camids: np.ndarray | None
    missing_maps: int = 0
    confidence: np.ndarray | None = None
    teacher_embeddings: np.ndarray | None = None
    contents: Mapping[str, str | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pids)

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
        hashed: bool = False,
    ) -> CropStore:
        """Read the records' images and, with a vocabulary, their part maps.

        All decoded pixels in the cache folder take at most `cache_gib`, 0 keeps none; `hashed` asks
        for `contents`. Raises PivlError naming the first file that cannot be read.
        """
        of_crops = _crop_decoder(records, size_hw, what)
        of_maps = _map_decoder(records, size_hw, vocabulary) if vocabulary else None
        crops = of_crops.pixels(cache_gib)
        maps, sure, contents = None, None, {}
        if of_maps:
            maps = of_maps.pixels(cache_gib)
            if confidence:
                sure = _confidence_decoder(records, size_hw).pixels(cache_gib)
        if hashed:
            contents = {"images": of_crops.content, "maps": of_maps.content if of_maps else None}
        return cls(
            crops=crops,
            maps=maps,
            pids=np.array([record.pid for record in records], dtype=np.int64),
            camids=_camids(records),
            missing_maps=sum(record.parsing is None for record in records) if vocabulary else 0,
            confidence=sure,
            contents=contents,
        )


def load_training(
    records: Sequence[Record],
    settings: DataSettings,
    vocabulary: Vocabulary | None = None,
    *,
    confidence: bool = False,
) -> CropStore:
    """Training crops as the settings want them, with maps where there is a vocabulary, hashed."""
    store = CropStore.load(
        records,
        settings.size_hw,
        vocabulary,
        confidence=confidence,
        cache_gib=settings.crop_cache_gib,
        hashed=True,
    )
    if store.confidence is not None and (store.confidence == FULL_CONFIDENCE).all():
        logger.warning(
            "No part map tells how sure its parser was (write_confidence): all count the same."
        )
    return store


def _camids(records: Sequence[Record]) -> np.ndarray | None:
    camids = [record.camid for record in records]
    return None if None in camids else np.array(camids, dtype=np.int64)


@dataclass(frozen=True)
class _FileDecoder:
    """How the pixels of N files become uint8 [N, *size]; a path of None gives IGNORE."""

    what: str
    paths: Sequence[Path | None]
    size: tuple[int, ...]
    read: Callable[[Path], np.ndarray]
    metadata: dict[str, Any]
    """What decides the pixels beside the files, the size and the decoder, as JSON values."""

    def pixels(self, cache_gib: float) -> np.ndarray:
        """All of them, out of the cache folder where they may be kept there."""
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
        """SHA-256 (hex) of everything that decides the pixels."""
        decoder = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"
        about = {
            "version": FORMAT_VERSION,
            "decoder": decoder,
            "size": self.size,
            "files": self.content,
            **self.metadata,
        }
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    @functools.cached_property
    def content(self) -> str:
        """SHA-256 (hex) of the bytes of every file, in order, wherever they lie.

        One process of each machine reads them: another machine may have other files.
        """
        return process_group.broadcast_object_on_node(self._content)

    def _content(self) -> str:
        digest = hashlib.sha256()
        for of_file in self._each(_file_digest, f"Looking for {self.what}"):
            digest.update(of_file)
        return digest.hexdigest()

    def batches(self) -> Iterator[array_cache.Batch]:
        """The pixels of `CHUNK_FILES` files after the other."""
        decoded = self._each(self._decode, f"Reading {self.what}")
        while chunk := list(islice(decoded, CHUNK_FILES)):
            yield {"pixels": np.stack(chunk)}

    def _decode(self, path: Path | None) -> np.ndarray:
        return np.full(self.size, IGNORE, PIXEL) if path is None else self.read(path)

    def _each(self, work: Callable[[Path | None], T], description: str) -> Iterator[T]:
        """`work` done on every path, in order and in threads, no more than a chunk ahead."""
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
    """Of images without a map it matters nowhere."""
    return _FileDecoder(
        what="confidence of the part maps",
        paths=[record.parsing for record in records],
        size=size_hw,
        read=functools.partial(read_confidence, size_hw=size_hw),
        metadata={"pixels": "confidence"},
    )


def _file_digest(path: Path | None) -> bytes:
    """SHA-256 of a file's bytes; zeros where there is none."""
    if path is None:
        return bytes(32)
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise PivlError(f"Cannot read {path}: {error}.") from error
