"""A cache of large arrays on disk: memory-mapped, verified by hashes, bounded in size.

An entry is a folder named by a key: the hash of everything that determines its contents. It holds
one .npy file per array and `sha256.json` with the hashes of these files. The hashes are checked
whenever the entry is opened; a damaged entry is reported and computed again. An entry is created
atomically, by a rename. Arrays are memory-mapped, so they may be larger than main memory, and the
processes of one machine share their pages.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from pivl_distill.storage.cache_dir import CacheError
from pivl_distill.storage.files import atomic_folder, sha256, write_json
from pivl_distill.storage.mapped_files import map_array
from pivl_distill.storage.readers import read_json

logger = logging.getLogger(__name__)

HASHES = "sha256.json"
MAX_HEADER_BYTES = 4096
"""Upper bound of the header of an .npy file."""
ABANDONED_S = 24 * 3600
"""Age in seconds above which an unfinished entry is taken for the remains of a crash."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the arrays of an entry, by name."""
Batch = Mapping[str, np.ndarray]
"""The next rows of each array of an entry, by name."""


def load_or_create(
    entry: Path,
    shapes: Shapes,
    dtype: np.dtype,
    make_batches: Callable[[], Iterable[Batch]],
    limit_bytes: int,
    description: str,
) -> dict[str, np.ndarray] | None:
    """Return the arrays of an entry; on a cache miss, compute and store them first.

    One process computes an entry; others that need it wait. A warning is logged where the entry
    cannot be stored for another reason than the limit.

    Args:
        entry: folder of the entry; its name is the key.
        shapes: shapes of the arrays, by name.
        dtype: type of all arrays.
        make_batches: computes the rows of all arrays, in order; called on a cache miss only.
        limit_bytes: maximum size of all entries next to this one; the least recently used ones are
            evicted.
        description: what the arrays are, in the plural, for log messages.

    Returns:
        Memory-mapped arrays by name, or None if there is no room for them.
    """
    if _bytes(shapes, dtype) > limit_bytes:
        return None
    arrays = _open(entry, shapes, dtype)
    if arrays is None:
        try:
            with _exclusive(entry, description):
                arrays = read(entry, shapes, dtype, description)
                if entry.is_dir() and arrays is None:
                    raise CacheError(f"{entry} can neither be read nor removed.")
                if arrays is None and has_room(entry, shapes, dtype, description):
                    write(entry, shapes, dtype, make_batches())
                    arrays = _open(entry, shapes, dtype)
        except CacheError as error:
            logger.warning(f"The {description} stay in memory: {error}")
    if arrays is not None:
        mark_used(entry, limit_bytes)
    return arrays


def has_room(entry: Path, shapes: Shapes, dtype: np.dtype, description: str) -> bool:
    """Whether an entry exists or the disk has room for it; logs a warning if not.

    The least recently used entries are evicted if that makes enough room.
    """
    if entry.is_dir():
        return True
    folder, needed = entry.parent, _bytes(shapes, dtype)
    _make_folder(folder)
    if (missing := needed - shutil.disk_usage(folder).free) > 0:
        _make_room(folder, missing)
    free = shutil.disk_usage(folder).free
    if needed > free:
        logger.warning(
            f"The {description} stay in memory: they need {needed / 2**30:.1f} GiB and {folder} has"
            f" {free / 2**30:.1f} GiB left. Set PIVL_DISTILL_CACHE to another folder."
        )
    return needed <= free


def has_array_of_size(folder: Path, size: int) -> bool:
    """Whether an entry in `folder` holds an array of `size` bytes, most likely the one in question.

    It takes no reading of files, unlike the key of an entry.
    """
    sizes = (file.stat().st_size for file in folder.glob("[!.]*/*.npy"))
    return any(0 < found - size <= MAX_HEADER_BYTES for found in sizes)


def read(
    entry: Path, shapes: Shapes, dtype: np.dtype, description: str
) -> dict[str, np.ndarray] | None:
    """Return the memory-mapped arrays of an entry, or None if it is missing or damaged.

    A damaged entry is removed, with a warning. An entry of another user may stay.
    """
    arrays = _open(entry, shapes, dtype)
    if arrays is None and entry.is_dir():
        logger.warning(f"The {description} in {entry} are damaged and will be computed again.")
        shutil.rmtree(entry, ignore_errors=True)
    return arrays


def write(entry: Path, shapes: Shapes, dtype: np.dtype, batches: Iterable[Batch]) -> None:
    """Create an entry atomically from batches; another process may create the same one first.

    Raises CacheError if it cannot be written.
    """
    try:
        with atomic_folder(entry) as folder:
            _write_arrays(folder, shapes, dtype, batches)
            write_json(folder / HASHES, {name: sha256(_file(folder, name)) for name in shapes})
    except OSError as error:
        if not entry.is_dir():
            raise _cannot_write(entry.parent, error) from error


def mark_used(entry: Path, limit_bytes: int) -> None:
    """Mark an entry as just used and evict others until their folder is within the limit."""
    with suppress(OSError):  # a shared cache may be read-only
        os.utime(entry)
        evict_least_recently_used(entry.parent, limit_bytes, entry)


def evict_least_recently_used(folder: Path, limit_bytes: int, kept: Path | None = None) -> None:
    """Evict the least recently used entries until the folder takes at most `limit_bytes`.

    The entry `kept`, by default the most recently used one, stays in any case: where the clock was
    set back, others seem to be younger. Remains of crashes are removed too.
    """
    now = time.time()
    for unfinished in folder.glob(".*"):
        if now - unfinished.stat().st_mtime > ABANDONED_S:
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink(missing_ok=True)
    total = 0
    for number, (entry, size) in enumerate(_sizes(folder, kept).items()):
        total += size
        if number and total > limit_bytes:
            shutil.rmtree(entry, ignore_errors=True)


def _make_room(folder: Path, missing_bytes: int) -> None:
    """Evict the least recently used entries to free `missing_bytes`, or none if that is too much.

    The most recently used entry is kept: the present run may have mapped it.
    """
    with suppress(OSError):  # another process may evict entries at the same time
        sizes = list(_sizes(folder).values())
        if sum(sizes[1:]) >= missing_bytes:
            evict_least_recently_used(folder, sum(sizes) - missing_bytes)


def _sizes(folder: Path, first: Path | None = None) -> dict[Path, int]:
    """Return the size in bytes of every entry: `first`, then the most recently used ones."""
    entries = [entry for entry in folder.glob("[!.]*") if entry.is_dir()]
    entries.sort(key=lambda entry: (entry == first, entry.stat().st_mtime), reverse=True)
    return {entry: _size(entry) for entry in entries}


def _size(entry: Path) -> int:
    try:
        return sum(file.stat().st_size for file in entry.iterdir())
    except OSError:  # another user's, or just evicted by another process
        return 0


def _open(entry: Path, shapes: Shapes, dtype: np.dtype) -> dict[str, np.ndarray] | None:
    """Return the arrays, or None unless all files have the right hashes, shapes and type."""
    try:
        hashes = read_json(entry / HASHES, "a list of hashes")
        # Copy on write: torch needs writable memory, and the file must not change.
        arrays = {name: map_array(_file(entry, name), hashes[name]) for name in shapes}
    except Exception:  # numpy raises many types about damaged headers, tokenize.TokenError too
        return None
    shapes_match = all(arrays[name].shape == shape for name, shape in shapes.items())
    dtypes_match = all(array.dtype == dtype for array in arrays.values())
    return arrays if shapes_match and dtypes_match else None


def _write_arrays(folder: Path, shapes: Shapes, dtype: np.dtype, batches: Iterable[Batch]) -> None:
    files = {name: _file(folder, name).open("wb") for name in shapes}
    try:
        for name, shape in shapes.items():
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        for batch in batches:
            for name, values in batch.items():
                values.astype(dtype, order="C", copy=False).tofile(files[name])
    finally:
        for file in files.values():
            file.close()


@contextmanager
def _exclusive(entry: Path, description: str) -> Iterator[None]:
    """Hold the lock of an entry inside the block; log a message if another process holds it."""
    _make_folder(entry.parent)
    file = entry.with_name(f".{entry.name}.lock")
    lock = FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"Another process is computing the {description}; waiting for it.")
            lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter without locks, as on some clusters
        raise _cannot_write(entry.parent, error) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # the lock is no longer needed: waiting processes find the entry
            file.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: Exception) -> CacheError:
    return CacheError.from_os_error(folder, error, ", or use --no-cache")


def _file(entry: Path, name: str) -> Path:
    return entry / f"{name}.npy"


def _bytes(shapes: Shapes, dtype: np.dtype) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape in shapes.values())
