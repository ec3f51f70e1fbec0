"""Cached arrays: verified, computed by one process, bounded, with a fallback to main memory."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pivl_distill.storage import array_cache
from pivl_distill.storage.array_cache import (
    Batch,
    CacheError,
    evict_least_recently_used,
    load_or_create,
    read,
    write,
)

BYTES = np.dtype(np.uint8)
SHAPES = {"crops": (10, 4, 3), "maps": (10, 4)}
WHAT = "decoded crops"
GIB = 2**30


def content() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, shape, np.uint8) for name, shape in SHAPES.items()}


def batches() -> Iterator[Batch]:
    for start in range(0, 10, 4):
        yield {name: values[start : start + 4] for name, values in content().items()}


def no_batches() -> Iterator[Batch]:
    raise AssertionError("computed despite a cache hit")


def assert_content(arrays: dict[str, np.ndarray] | None) -> None:
    assert arrays is not None
    assert arrays.keys() == SHAPES.keys()
    for name, values in content().items():
        assert isinstance(arrays[name], np.memmap)
        np.testing.assert_array_equal(arrays[name], values)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return tmp_path / "crops" / "key"


def test_second_call_is_a_cache_hit(entry: Path) -> None:
    assert_content(load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT))
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_writing_to_arrays_does_not_change_the_entry(entry: Path) -> None:
    arrays = load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert arrays is not None
    arrays["maps"][:] = 0
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "no hash", "hash gone", "empty"])
def test_damaged_entry_is_logged_and_computed_again(
    entry: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    file, hashes = entry / "maps.npy", entry / "sha256.json"
    if damage == "cut":
        os.truncate(file, file.stat().st_size - 1)
    elif damage == "bit":
        changed = bytearray(file.read_bytes())
        changed[-7] ^= 1
        file.write_bytes(changed)
    elif damage == "gone":
        file.unlink()
    elif damage == "no hash":
        hashes.write_text(json.dumps({"crops": "0"}))
    elif damage == "hash gone":
        hashes.unlink()
    else:
        file.write_bytes(b"")
    assert_content(load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT))
    assert f"The decoded crops in {entry} are damaged and will be computed again." in caplog.text
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))


def test_damaged_header_with_the_right_hash_is_computed_again(entry: Path) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    file, hashes = entry / "maps.npy", entry / "sha256.json"
    file.write_bytes(b"\x93NUMPY\x01\x00\x04\x00\x00(\n(")  # numpy raises tokenize.TokenError
    known = json.loads(hashes.read_text())
    hashes.write_text(json.dumps(known | {"maps": sha256(file.read_bytes()).hexdigest()}))
    assert_content(load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT))


@pytest.mark.parametrize("other", [{"crops": (10, 4, 3), "maps": (5, 8)}, {"crops": (10, 12)}])
def test_other_shapes_are_a_cache_miss(entry: Path, other: array_cache.Shapes) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert read(entry, other, BYTES, WHAT) is None


def test_another_dtype_is_a_cache_miss(entry: Path) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert read(entry, SHAPES, np.dtype(np.int8), WHAT) is None


def test_arrays_above_the_limit_are_not_stored(entry: Path) -> None:
    assert load_or_create(entry, SHAPES, BYTES, no_batches, 159, WHAT) is None
    assert not entry.parent.exists()
    assert_content(load_or_create(entry, SHAPES, BYTES, batches, 160, WHAT))


def test_full_disk_is_logged_and_nothing_is_written(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _path: usage._replace(free=100))
    assert load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT) is None
    assert not list(entry.parent.iterdir())
    assert "The decoded crops stay in memory" in caplog.text


def test_existing_entry_is_used_on_a_full_disk(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _path: usage._replace(free=100))
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))


def test_disk_that_fills_up_while_writing_leaves_nothing(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array_cache, "write_json", full)
    assert load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT) is None
    assert not list(entry.parent.iterdir())
    assert "No space left" in caplog.text
    assert "--no-cache" in caplog.text
    with pytest.raises(CacheError, match="No space left"):
        write(entry, SHAPES, BYTES, batches())


def test_folder_that_cannot_be_created_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert (
        load_or_create(tmp_path / "file" / "crops" / "key", SHAPES, BYTES, no_batches, GIB, WHAT)
        is None
    )
    assert "Cannot write to the cache folder" in caplog.text


def test_entry_of_another_user_is_computed_in_memory(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It can neither be read nor removed; root, who may run the tests, can do both."""
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)

    def forbidden(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(array_cache, "map_array", forbidden)
        patch.setattr(os, "rmdir", forbidden)
        patch.setattr(os, "unlink", forbidden)
        assert load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT) is None
    assert "can neither be read nor removed" in caplog.text
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))


def test_other_files_do_not_stop_eviction(tmp_path: Path) -> None:
    for name, age_s in (("old", 300), ("new", 100)):
        plant_entry(tmp_path, name, 10, age_s)
    (tmp_path / "README").touch()
    evict_least_recently_used(tmp_path, 10)
    assert {entry.name for entry in tmp_path.iterdir()} == {"new", "README"}


def test_crash_leaves_nothing(entry: Path) -> None:
    def crash() -> Iterator[Batch]:
        yield next(batches())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_create(entry, SHAPES, BYTES, crash, GIB, WHAT)
    assert not list(entry.parent.iterdir())


def test_waiting_process_reuses_the_entry(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry.parent.mkdir()
    other = FileLock(entry.parent / ".key.lock")
    other.acquire()

    messages: list[str] = []

    def finish(message: str) -> None:
        write(entry, SHAPES, BYTES, batches())
        other.release()
        messages.append(message)

    monkeypatch.setattr(array_cache.logger, "info", finish)
    assert_content(load_or_create(entry, SHAPES, BYTES, no_batches, GIB, WHAT))
    assert "Another process is computing the decoded crops" in messages[0]


def test_without_working_locks_the_first_entry_is_kept(entry: Path) -> None:
    def race() -> Iterator[Batch]:
        write(entry, SHAPES, BYTES, batches())
        yield from batches()

    assert_content(load_or_create(entry, SHAPES, BYTES, race, GIB, WHAT))
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def _compute_and_count(entry: Path, counts: Path, start: object) -> None:
    def counted() -> Iterator[Batch]:
        (counts / str(os.getpid())).touch()
        yield from batches()

    start.wait()  # type: ignore[attr-defined]
    assert_content(load_or_create(entry, SHAPES, BYTES, counted, GIB, WHAT))


def test_one_of_several_processes_computes_the_entry(entry: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, counts = context.Barrier(4), tmp_path / "counts"
    counts.mkdir()
    processes = [
        context.Process(target=_compute_and_count, args=(entry, counts, start)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(list(counts.iterdir())) == 1


def plant_entry(folder: Path, name: str, size: int, age_s: float) -> Path:
    entry = folder / name
    entry.mkdir(parents=True)
    (entry / "cells.npy").write_bytes(bytes(size))
    used = time.time() - age_s
    os.utime(entry, (used, used))
    return entry


def test_least_recently_used_entries_are_evicted_first(tmp_path: Path) -> None:
    for name, age_s in (("old", 300), ("older", 400), ("new", 100), ("newer", 50)):
        plant_entry(tmp_path, name, 10, age_s)
    evict_least_recently_used(tmp_path, 29)
    assert {entry.name for entry in tmp_path.iterdir()} == {"new", "newer"}
    evict_least_recently_used(tmp_path, 1)
    assert {entry.name for entry in tmp_path.iterdir()} == {"newer"}


@pytest.mark.parametrize(
    ("free", "left"),
    [
        (160, {"new", "middle", "old", "key"}),
        (110, {"new", "middle", "key"}),
        (100, {"new", "key"}),
        (59, {"new", "middle", "old"}),  # evicting all but the newest would not be enough
    ],
)
def test_entries_are_evicted_on_a_full_disk(
    entry: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    left: set[str],
) -> None:
    """The entry has 160 bytes, three others have 50 each; the disk has `free` bytes free."""
    folder, usage = entry.parent, shutil.disk_usage("/")
    for name, age_s in (("old", 300), ("middle", 200), ("new", 100)):
        plant_entry(folder, name, 50, age_s)

    def disk(path: Path) -> object:
        gone = sum(not (path / name).exists() for name in ("old", "middle", "new"))
        return usage._replace(free=free + 50 * gone)

    monkeypatch.setattr(array_cache.shutil, "disk_usage", disk)
    arrays = load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert {path.name for path in folder.iterdir()} == left
    assert ("stay in memory" in caplog.text) == (arrays is None) == ("key" not in left)


def test_cache_hit_marks_the_entry_as_used(entry: Path) -> None:
    load_or_create(entry, SHAPES, BYTES, batches, GIB, WHAT)
    os.utime(entry, (1.0, 1.0))
    plant_entry(entry.parent, "another", 10, 60)
    load_or_create(entry, SHAPES, BYTES, no_batches, 200, WHAT)
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_the_entry_in_use_is_kept_when_the_clock_was_set_back(entry: Path) -> None:
    """Entries that were used before seem to be younger than the one that is used now."""
    plant_entry(entry.parent, "from the future", 150, -3 * 24 * 3600)
    load_or_create(entry, SHAPES, BYTES, batches, 300, WHAT)
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_remains_of_a_crash_are_removed_after_a_day(tmp_path: Path) -> None:
    plant_entry(tmp_path, ".begun", 10, 3600)
    plant_entry(tmp_path, ".left", 10, 2 * 24 * 3600)
    plant_entry(tmp_path, "kept", 10, 2 * 24 * 3600)
    lock = tmp_path / ".left.lock"
    lock.touch()
    os.utime(lock, (1.0, 1.0))
    evict_least_recently_used(tmp_path, 100)
    assert {entry.name for entry in tmp_path.iterdir()} == {".begun", "kept"}


def test_an_array_is_found_by_its_size(tmp_path: Path) -> None:
    folder = tmp_path / "kind"
    assert not array_cache.has_array_of_size(folder, 120)
    folder.mkdir()
    write(folder / "key", SHAPES, BYTES, batches())
    for size, found in ((120, True), (40, True), (119 + 8192, False), (10_000, False)):
        assert array_cache.has_array_of_size(folder, size) == found
