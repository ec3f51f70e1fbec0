"""Decoded crops in memory, so that no epoch decodes an image twice.

A crop of 256×128 takes 96 KiB and its map 32 KiB: Market-1501's training split fits in 1.6 GiB.
Datasets larger than memory are left out on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pivl_distill.config import DataSettings
from pivl_distill.console import track
from pivl_distill.data.cleaning import drop_small_parts, keep_largest_person
from pivl_distill.data.images import read_crop
from pivl_distill.data.parsing import read_map
from pivl_distill.data.records import Record
from pivl_distill.data.vocabulary import IGNORE, Vocabulary


@dataclass(frozen=True)
class CropStore:
    """N crops with their labels, in the order of the records they were read from.

    `crops` uint8 RGB [N, H, W, 3]; `maps` uint8 [N, H, W] or None if no vocabulary was given;
    `pids` int64 [N]; `camids` int64 [N] or None if a camera is unknown. `missing_maps` images had
    no map: theirs is IGNORE throughout. `embeddings` [N, F] are a teacher's vectors, if there are
    any.
    """

    crops: np.ndarray
    maps: np.ndarray | None
    pids: np.ndarray
    camids: np.ndarray | None
    missing_maps: int = 0
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pids)

    @classmethod
    def load(
        cls,
        records: Sequence[Record],
        size_hw: tuple[int, int],
        vocabulary: Vocabulary | None = None,
        description: str = "Reading crops",
        *,
        min_part_px: int = 0,
        largest_person: bool = False,
    ) -> CropStore:
        """Read the records' images and, with a vocabulary, their part maps, cleaned as asked.

        Raises PivlError naming the first file that cannot be read.
        """
        crops = np.empty((len(records), *size_hw, 3), dtype=np.uint8)
        maps = np.full((len(records), *size_hw), IGNORE, np.uint8) if vocabulary else None

        def read(number: int) -> None:
            record = records[number]
            crops[number] = read_crop(record.path, size_hw)
            if vocabulary and maps is not None and record.parsing is not None:
                values = read_map(record.parsing, size_hw, vocabulary)
                if largest_person:
                    values = keep_largest_person(values, vocabulary.background)
                maps[number] = drop_small_parts(values, min_part_px)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            done = pool.map(read, range(len(records)))
            for _ in track(done, description, total=len(records), unit="crops"):
                pass
        return cls(
            crops=crops,
            maps=maps,
            pids=np.array([record.pid for record in records], dtype=np.int64),
            camids=_camids(records),
            missing_maps=sum(record.parsing is None for record in records) if vocabulary else 0,
        )


def load_training(
    records: Sequence[Record], settings: DataSettings, vocabulary: Vocabulary | None = None
) -> CropStore:
    """Training crops as the settings want them, with maps where there is a vocabulary."""
    return CropStore.load(
        records,
        settings.size_hw,
        vocabulary,
        min_part_px=settings.min_part_px,
        largest_person=settings.largest_person,
    )


def _camids(records: Sequence[Record]) -> np.ndarray | None:
    camids = [record.camid for record in records]
    return None if None in camids else np.array(camids, dtype=np.int64)
