"""Large arrays in the cache folder: made once, mapped from disk, verified, bounded, safe to share.

An entry is a folder named by a key, the hash of all that decides its contents. It holds one .npy
file per array and `sha256.json`, the hashes of these files, which are checked whenever the entry is
opened: a damaged entry is told and made anew. It appears as a whole, by a rename. Arrays are mapped
into memory, so they may be larger than it, and processes of one machine share their pages.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from pivl_distill.errors import PivlError
from pivl_distill.storage.files import sha256, write_json

logger = logging.getLogger(__name__)

HASHES = "sha256.json"
ABANDONED_S = 24 * 3600
"""After so many seconds an unfinished entry is one that a crash left behind."""

Shapes = Mapping[str, tuple[int, ...]]
"""The arrays of an entry by name."""
Batch = Mapping[str, np.ndarray]
"""The next rows of every array of an entry."""


class CacheError(PivlError):
    """An entry cannot be written: the disk is full, a quota is reached, the folder is read-only."""


def cached(
    entry: Path,
    shapes: Shapes,
    dtype: np.dtype,
    make: Callable[[], Iterable[Batch]],
    limit_bytes: int,
    what: str,
) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, made out of the batches of `make` if they are not there yet.

    One process makes them, others that want them too wait for it. Entries of the same folder take
    at most `limit_bytes`, the least recently used go first. None where there is no room, which is
    told unless the limit says so.
    """
    if _bytes(shapes, dtype) > limit_bytes:
        return None
    arrays = _open(entry, shapes, dtype)
    if arrays is None:
        try:
            with _exclusive(entry, what):
                arrays = read(entry, shapes, dtype, what)
                if arrays is None and has_room(entry, shapes, dtype, what):
                    write(entry, shapes, dtype, make())
                    arrays = _open(entry, shapes, dtype)
        except CacheError as error:
            logger.warning(f"The {what} stay in memory: {error}")
    if arrays is not None:
        mark_used(entry, limit_bytes)
    return arrays


def has_room(entry: Path, shapes: Shapes, dtype: np.dtype, what: str) -> bool:
    """Whether the disk has room for an entry, or holds it already; says so where it has not.

    Entries that were used longest ago are removed where that makes room.
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
            f"The {what} stay in memory: they take {needed / 2**30:.1f} GiB and {folder} has"
            f" {free / 2**30:.1f} GiB left. PIVL_DISTILL_CACHE names another folder."
        )
    return needed <= free


def read(entry: Path, shapes: Shapes, dtype: np.dtype, what: str) -> dict[str, np.ndarray] | None:
    """The arrays of an entry, mapped from its files; None where it is absent.

    So it is after it was damaged: that is told, and the entry removed.
    """
    arrays = _open(entry, shapes, dtype)
    if arrays is None and entry.is_dir():
        logger.warning(f"The {what} in {entry} are damaged; they are made anew.")
        shutil.rmtree(entry)
    return arrays


def write(entry: Path, shapes: Shapes, dtype: np.dtype, batches: Iterable[Batch]) -> None:
    """Make an entry at once, out of batches; another process may finish the same one first.

    Raises CacheError where it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=entry.parent) as unfinished:
            folder = Path(unfinished) / "entry"
            folder.mkdir()
            _write_arrays(folder, shapes, dtype, batches)
            write_json(folder / HASHES, {name: sha256(_file(folder, name)) for name in shapes})
            try:
                folder.rename(entry)
            except OSError:
                if not entry.is_dir():
                    raise
    except OSError as error:
        raise _cannot_write(entry.parent, error) from error


def mark_used(entry: Path, limit_bytes: int) -> None:
    """Count an entry as just used, and keep its folder within the limit."""
    with suppress(OSError):  # a cache that others fill may be read-only
        os.utime(entry)
        evict_least_recent(entry.parent, limit_bytes)


def evict_least_recent(folder: Path, limit_bytes: int) -> None:
    """Remove the least recently used entries until the folder takes no more than `limit_bytes`.

    The most recently used one stays in any case.
    """
    now = time.time()
    for unfinished in folder.glob(".*"):
        if now - unfinished.stat().st_mtime > ABANDONED_S:
            if unfinished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
            else:
                unfinished.unlink(missing_ok=True)
    taken = 0
    for number, (entry, size) in enumerate(_sizes(folder).items()):
        taken += size
        if number and taken > limit_bytes:
            shutil.rmtree(entry, ignore_errors=True)


def _make_room(folder: Path, missing_bytes: int) -> None:
    """Remove the least recently used entries for so many bytes; none where they hold fewer.

    The most recently used one stays: it may be mapped by this very run.
    """
    with suppress(OSError):  # others remove entries too
        sizes = list(_sizes(folder).values())
        if sum(sizes[1:]) >= missing_bytes:
            evict_least_recent(folder, sum(sizes) - missing_bytes)


def _sizes(folder: Path) -> dict[Path, int]:
    """The bytes of every entry, the most recently used first."""
    entries = sorted(folder.glob("[!.]*"), key=lambda entry: entry.stat().st_mtime, reverse=True)
    return {entry: sum(file.stat().st_size for file in entry.iterdir()) for entry in entries}


def _open(entry: Path, shapes: Shapes, dtype: np.dtype) -> dict[str, np.ndarray] | None:
    """The arrays if all are there, as long as they should be and with the hashes they had."""
    try:
        hashes = json.loads((entry / HASHES).read_text(encoding="utf-8"))
        if any(sha256(_file(entry, name)) != hashes[name] for name in shapes):
            return None
        # Copy on write: the file never changes, and torch gets memory that it may write to.
        arrays = {name: np.load(_file(entry, name), mmap_mode="c") for name in shapes}
    except (OSError, ValueError, LookupError, TypeError):
        return None
    fit = all(arrays[name].shape == shape for name, shape in shapes.items())
    return arrays if fit and all(array.dtype == dtype for array in arrays.values()) else None


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
def _exclusive(entry: Path, what: str) -> Iterator[None]:
    """Inside, no other process makes this entry; that it has to be waited for is told."""
    _make_folder(entry.parent)
    file = entry.with_name(f".{entry.name}.lock")
    lock = FileLock(file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"Another process makes the {what}; waiting for it.")
            lock.acquire()
    except OSError as error:
        raise _cannot_write(entry.parent, error) from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # it matters to nobody any more: whoever waits finds the entry
            file.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> CacheError:
    return CacheError(
        f"Cannot write to the cache folder {folder}: {error}. PIVL_DISTILL_CACHE names another"
        " folder; --no-cache does without."
    )


def _file(entry: Path, name: str) -> Path:
    return entry / f"{name}.npy"


def _bytes(shapes: Shapes, dtype: np.dtype) -> int:
    return sum(math.prod(shape) * dtype.itemsize for shape in shapes.values())
