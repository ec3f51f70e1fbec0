"""Features of every crop by the frozen image encoder: computed once and cached on disk.

Stage 1 trains learned tokens only, on crops without augmentation (§4.2), so the one global and h·w
cell features of each crop never change. They are stored in half precision, which has no effect on
the learned texts (`docs/speed.md`), and memory-mapped from the cache, so that data sets larger than
memory work. The cache key hashes the weights, the pixels and the preprocessing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pivl_distill.config import TrainingPrecision, TuningSettings
from pivl_distill.console import track
from pivl_distill.data.batches import DeviceArray, to_device
from pivl_distill.data.part_maps import cell_parts
from pivl_distill.data.store import CropStore
from pivl_distill.data.vocabulary import IGNORE, Vocabulary
from pivl_distill.distributed import process_group
from pivl_distill.distributed.collectives import all_gather
from pivl_distill.errors import PivlError
from pivl_distill.models.embedding import normalize_crops
from pivl_distill.storage import array_cache
from pivl_distill.storage.cache_dir import CacheError, cache_dir
from pivl_distill.training.precision import half_dtype
from teachers.clip import Clip

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Part of every key: increment it when encoders or preprocessing change the features."""

CellFeatures = Literal["attended", "value"]
STORED_DTYPE = np.dtype("<f2")
DESCRIPTION = "features of crops"
BATCH_SIZE = 64


@dataclass(frozen=True)
class ImageFeatures:
    """CLIP's features of N crops in the joint space, not normalised, and the part of each cell."""

    projected: Tensor
    """[N, D] the whole crop, on the device of the encoders."""
    cells: DeviceArray
    """[N, h·w, D] in half precision; h·w is 0 where the part prompts are not tuned."""
    parts: Tensor
    """[N, h·w] part id of each cell, or IGNORE; on the CPU."""

    def batch_projected(self, batch: np.ndarray) -> Tensor:
        """Return [B, D] of the crops with indices `batch` [B]."""
        return self.projected.index_select(0, to_device(batch, self.projected.device))

    def batch_cells(self, batch: np.ndarray) -> Tensor:
        """Return [B, h·w, D] of the crops `batch` [B], with dtype and device of `projected`."""
        return self.cells.take(batch).to(self.projected)


def encode_crops(
    clip: Clip, store: CropStore, vocabulary: Vocabulary, settings: TuningSettings
) -> ImageFeatures:
    """Return the features of every crop, from the cache if it has them.

    The cache keeps at most `feature_cache_gib`, evicting the least recently used entry; features
    that do not fit, or any with 0, are kept in memory. Cells, by far the largest part, are encoded
    only if part prompts are tuned. Each rank encodes a share of each batch, which is gathered on
    all ranks; one rank of each machine writes the cache entry.
    """
    path = settings.cell_features if settings.part_epochs else None
    limit = int(settings.feature_cache_gib * 2**30)
    shapes = feature_shapes(clip, store, path)
    half = encoding_dtype(settings.precision, clip.text.positional_embedding.device)
    needed = sum(math.prod(shape) * STORED_DTYPE.itemsize for shape in shapes.values())
    folder = cache_dir() / "features"
    entry = folder / feature_key(clip, store, path, half) if needed <= limit else None
    arrays = None
    if entry is not None and not process_group.all_reduce_max(not _has_room(entry, shapes)):
        arrays = _read_or_write(entry, shapes, lambda: _encode_batches(clip, store, path, half))
        if arrays is not None and not process_group.local_rank():
            array_cache.mark_used(entry, limit)
    if arrays is None:
        arrays, start = {name: np.empty(shape, STORED_DTYPE) for name, shape in shapes.items()}, 0
        for batch in _encode_batches(clip, store, path, half):
            stop = start + len(batch["projected"])
            for name, values in batch.items():
                arrays[name][start:stop] = values
            start = stop
    device = clip.text.positional_embedding.device
    projected = torch.from_numpy(arrays["projected"]).to(device, torch.float32)
    cells = arrays.get("cells", np.empty((len(store), 0, clip.image.dim), STORED_DTYPE))
    parts = _cell_parts(clip, store, vocabulary, settings)
    return ImageFeatures(projected, DeviceArray(cells, device), parts)


def _read_or_write(
    entry: Path,
    shapes: array_cache.Shapes,
    encoded: Callable[[], Iterator[dict[str, np.ndarray]]],
) -> dict[str, np.ndarray] | None:
    """Return the arrays of a cache entry, which is written first on machines that lack it.

    Return None on all ranks, after a warning, if one of them cannot write or read it.
    """
    with process_group.local_main_process_first():
        arrays = array_cache.read(entry, shapes, STORED_DTYPE, DESCRIPTION)
    if process_group.all_reduce_max(arrays is None):
        batches = encoded()
        if arrays is None and not process_group.local_rank():
            try:
                array_cache.write(entry, shapes, STORED_DTYPE, batches)
            except CacheError as error:
                logger.warning(f"The {DESCRIPTION} stay in memory: {error}")
        for _ in batches:  # all ranks encode each batch together
            pass
        process_group.barrier()
        arrays = array_cache.read(entry, shapes, STORED_DTYPE, DESCRIPTION)
    return None if process_group.all_reduce_max(arrays is None) else arrays


def _has_room(entry: Path, shapes: array_cache.Shapes) -> bool:
    """Whether the disk has room for an entry; log a warning if not."""
    try:
        return array_cache.has_room(entry, shapes, STORED_DTYPE, DESCRIPTION)
    except CacheError as error:
        logger.warning(f"The {DESCRIPTION} stay in memory: {error}")
        return False


def feature_shapes(
    clip: Clip, store: CropStore, path: CellFeatures | None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays of an entry; without `path` there are no cells."""
    dim = clip.image.dim
    shapes: dict[str, tuple[int, ...]] = {"projected": (len(store), dim)}
    if path:
        shapes["cells"] = (len(store), math.prod(clip.image.grid_hw), dim)
    return shapes


def feature_key(
    clip: Clip, store: CropStore, path: CellFeatures | None, half: torch.dtype | None = None
) -> str:
    """Return the SHA-256 (hex) of everything that the features depend on."""
    about = {
        "version": FORMAT_VERSION,
        "clip": clip.name,
        "weights": clip.weights_sha256,
        "grid_hw": clip.image.grid_hw,
        "mean_std": (clip.mean, clip.std),
        "crops": store.crops.shape,
        "cells": path,
    }
    if half is not None:
        about["precision"] = str(half)
    digest = hashlib.sha256(json.dumps(about).encode())
    digest.update(np.ascontiguousarray(store.crops).data)
    return digest.hexdigest()


@torch.inference_mode()
def _encode_batches(
    clip: Clip, store: CropStore, path: CellFeatures | None, half: torch.dtype | None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the features batch by batch; each rank encodes up to `BATCH_SIZE` crops per batch."""
    device = clip.text.positional_embedding.device
    size = BATCH_SIZE * process_group.world_size()
    for start in track(range(0, len(store), size), "Encoding crops with CLIP", unit="batches"):
        batch_crops = store.crops[start : start + size]
        crops = torch.from_numpy(batch_crops[process_group.nonempty_shard(len(batch_crops))])
        shard = _encode(clip, crops.to(device), path, half).half()
        tokens = all_gather(shard, len(batch_crops)).cpu().numpy()
        if not np.isfinite(tokens).all():
            raise PivlError(
                "CLIP's features of the crops overflow half precision, in which they are computed"
                " or stored; set tuning.precision to float32 or choose other weights."
            )
        batch = {"projected": tokens[:, 0]}
        yield batch | {"cells": tokens[:, 1:]} if path else batch


def _encode(
    clip: Clip, crops: Tensor, path: CellFeatures | None, half: torch.dtype | None
) -> Tensor:
    """Encode crops uint8 [B, H, W, 3] to [B, 1 + h·w, D]: the image, then its cells."""
    tokens_of = clip.image.value_tokens if path == "value" else clip.image.joint_tokens
    images = normalize_crops(crops, clip.mean, clip.std)
    with torch.autocast(images.device.type, half, enabled=half is not None):
        return tokens_of(images)


def encoding_dtype(precision: TrainingPrecision, device: torch.device) -> torch.dtype | None:
    """Return the half-precision dtype of the image encoder; None for float32.

    "auto" is float16 on CUDA, the dtype of the stored features and of OpenAI's weights.
    """
    if precision == "auto" and device.type == "cuda":
        return torch.float16
    return half_dtype(precision, device)


def _cell_parts(
    clip: Clip, store: CropStore, vocabulary: Vocabulary, settings: TuningSettings
) -> Tensor:
    """Return the part id of each cell, [N, h·w], on the CPU; IGNORE everywhere without maps."""
    grid_hw = clip.image.grid_hw
    if store.maps is None:
        return torch.full((len(store), math.prod(grid_hw)), IGNORE, device="cpu")
    chunks = np.split(store.maps, range(BATCH_SIZE, len(store), BATCH_SIZE))
    parts = [
        cell_parts(torch.from_numpy(maps), grid_hw, len(vocabulary), settings.cell_labels)
        for maps in chunks
    ]
    return torch.cat(parts).flatten(1)
