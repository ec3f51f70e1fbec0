"""Whether the disk has room for the files of a training run and for what it adds to the cache.

The figures are upper estimates. A cache entry that cannot be written only costs time, but on the
disk of the run it could take the room of the run's own files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pivl_distill.config import Stage2Settings
from pivl_distill.console import format_bytes
from pivl_distill.errors import PivlError
from pivl_distill.models.network import ReIDNetwork
from pivl_distill.storage import array_cache
from pivl_distill.storage.cache_dir import cache_dir

FLOAT_BYTES = 4
MOMENTS = 2
"""Values that Adam keeps for each parameter, in addition to its weight."""
COPIES = 2
"""While a file of progress is replaced, the old and the new one exist."""
LOGS_BYTES = 1 << 20
"""Settings, metrics and summary of a run."""


@dataclass(frozen=True)
class CacheEntry:
    """An array that a run adds to the cache, if it is not there: its folder and size in bytes."""

    folder: str
    size: int


def training_bytes(network: ReIDNetwork, settings: Stage2Settings) -> int:
    """Return the bytes that stage 2 writes to a run: its progress and the trained network."""
    trained, exported = _values(network), _values(network.embedding_model().network)
    kept = exported * (bool(settings.average_decay) + settings.keep_best)
    return FLOAT_BYTES * (COPIES * ((1 + MOMENTS) * trained + kept) + exported)


def check_room(folder: Path, run_bytes: int, entries: Sequence[CacheEntry]) -> None:
    """Raise PivlError if the disk of a run has no room for its files and its cache entries.

    Args:
        folder: of the run, which may not exist yet; its present files count as written.
        run_bytes: total size of the run's files.
        entries: what goes to the cache; counted if the cache is on the same disk and lacks them.
    """
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed, disk = max(0, run_bytes + LOGS_BYTES - written), _existing(folder)
    parts = [f"{format_bytes(needed)} to {folder}"]
    cache = cache_dir()
    if _existing(cache).stat().st_dev == disk.stat().st_dev:
        missing = sum(
            entry.size
            for entry in entries
            if not array_cache.has_array_of_size(cache / entry.folder, entry.size)
        )
        if missing:
            needed += missing
            parts.append(f"{format_bytes(missing)} to the cache in {cache}")
    if needed > (free := shutil.disk_usage(disk).free):
        cache_remedy = ", leave out the cache with --no-cache" if len(parts) > 1 else ""
        raise PivlError(
            f"The run writes up to {' and '.join(parts)}, but that disk has {format_bytes(free)}"
            f" left. Free some{cache_remedy}, or name a folder on another disk with --out."
        )


def _values(network: nn.Module) -> int:
    """Return the number of values of a network, parameters and buffers."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest of its parents that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
