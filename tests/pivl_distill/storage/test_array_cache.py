"""Cached arrays: found again, verified, made by one process, bounded, told where they cannot be."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from pivl_distill.storage import array_cache
from pivl_distill.storage.array_cache import (
    Batch,
    CacheError,
    cached,
    evict_least_recent,
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


def never() -> Iterator[Batch]:
    raise AssertionError("made although it was there")


def assert_content(arrays: dict[str, np.ndarray] | None) -> None:
    assert arrays is not None
    assert arrays.keys() == SHAPES.keys()
    for name, values in content().items():
        assert isinstance(arrays[name], np.memmap)
        np.testing.assert_array_equal(arrays[name], values)


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return tmp_path / "crops" / "key"


def test_what_was_made_is_found(entry: Path) -> None:
    assert_content(cached(entry, SHAPES, BYTES, batches, GIB, WHAT))
    assert_content(cached(entry, SHAPES, BYTES, never, GIB, WHAT))
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_arrays_can_be_written_to_without_harm(entry: Path) -> None:
    arrays = cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert arrays is not None
    arrays["maps"][:] = 0
    assert_content(cached(entry, SHAPES, BYTES, never, GIB, WHAT))


@pytest.mark.parametrize("damage", ["cut", "bit", "gone", "no hash", "hash gone", "empty"])
def test_a_damaged_entry_is_told_and_made_anew(
    entry: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
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
    assert_content(cached(entry, SHAPES, BYTES, batches, GIB, WHAT))
    assert f"The decoded crops in {entry} are damaged; they are made anew." in caplog.text
    assert_content(cached(entry, SHAPES, BYTES, never, GIB, WHAT))


@pytest.mark.parametrize("other", [{"crops": (10, 4, 3), "maps": (5, 8)}, {"crops": (10, 12)}])
def test_other_shapes_are_not_taken(entry: Path, other: array_cache.Shapes) -> None:
    cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert read(entry, other, BYTES, WHAT) is None


def test_another_type_is_not_taken(entry: Path) -> None:
    cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert read(entry, SHAPES, np.dtype(np.int8), WHAT) is None


def test_what_is_larger_than_the_limit_is_not_kept(entry: Path) -> None:
    assert cached(entry, SHAPES, BYTES, never, 159, WHAT) is None
    assert not entry.parent.exists()
    assert_content(cached(entry, SHAPES, BYTES, batches, 160, WHAT))


def test_a_full_disk_is_told_and_nothing_is_written(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _path: usage._replace(free=100))
    assert cached(entry, SHAPES, BYTES, never, GIB, WHAT) is None
    assert not list(entry.parent.iterdir())
    assert "The decoded crops stay in memory" in caplog.text


def test_a_full_disk_does_not_hide_what_it_holds(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(array_cache.shutil, "disk_usage", lambda _path: usage._replace(free=100))
    assert_content(cached(entry, SHAPES, BYTES, never, GIB, WHAT))


def test_a_disk_that_fills_up_meanwhile_is_told_and_nothing_is_left(
    entry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(array_cache, "write_json", full)
    assert cached(entry, SHAPES, BYTES, batches, GIB, WHAT) is None
    assert not list(entry.parent.iterdir())
    assert "No space left" in caplog.text
    assert "--no-cache" in caplog.text
    with pytest.raises(CacheError, match="No space left"):
        write(entry, SHAPES, BYTES, batches())


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert cached(tmp_path / "file" / "crops" / "key", SHAPES, BYTES, never, GIB, WHAT) is None
    assert "Cannot write to the cache folder" in caplog.text


def test_a_crash_leaves_nothing(entry: Path) -> None:
    def crash() -> Iterator[Batch]:
        yield next(batches())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(entry, SHAPES, BYTES, crash, GIB, WHAT)
    assert not list(entry.parent.iterdir())


def test_who_waited_takes_what_the_other_made(entry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry.parent.mkdir()
    other = FileLock(entry.parent / ".key.lock")
    other.acquire()

    messages: list[str] = []

    def finish(message: str) -> None:
        write(entry, SHAPES, BYTES, batches())
        other.release()
        messages.append(message)

    monkeypatch.setattr(array_cache.logger, "info", finish)
    assert_content(cached(entry, SHAPES, BYTES, never, GIB, WHAT))
    assert "Another process makes the decoded crops" in messages[0]


def test_where_locks_do_not_work_the_first_to_finish_wins(entry: Path) -> None:
    def race() -> Iterator[Batch]:
        write(entry, SHAPES, BYTES, batches())
        yield from batches()

    assert_content(cached(entry, SHAPES, BYTES, race, GIB, WHAT))
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def _make_and_count(entry: Path, counts: Path, start: object) -> None:
    def counted() -> Iterator[Batch]:
        (counts / str(os.getpid())).touch()
        yield from batches()

    start.wait()  # type: ignore[attr-defined]
    assert_content(cached(entry, SHAPES, BYTES, counted, GIB, WHAT))


def test_of_several_processes_one_makes_it(entry: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, counts = context.Barrier(4), tmp_path / "counts"
    counts.mkdir()
    processes = [
        context.Process(target=_make_and_count, args=(entry, counts, start)) for _ in range(4)
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


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    for name, age_s in (("old", 300), ("older", 400), ("new", 100), ("newer", 50)):
        plant_entry(tmp_path, name, 10, age_s)
    evict_least_recent(tmp_path, 29)
    assert {entry.name for entry in tmp_path.iterdir()} == {"new", "newer"}
    evict_least_recent(tmp_path, 1)
    assert {entry.name for entry in tmp_path.iterdir()} == {"newer"}


@pytest.mark.parametrize(
    ("free", "left"),
    [
        (160, {"new", "middle", "old", "key"}),
        (110, {"new", "middle", "key"}),
        (100, {"new", "key"}),
        (59, {"new", "middle", "old"}),  # all but the newest would not be enough
    ],
)
def test_the_least_recently_used_make_room_on_a_full_disk(
    entry: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    free: int,
    left: set[str],
) -> None:
    """An entry of 160 bytes and others of 50, on a disk that had so many bytes free."""
    folder, usage = entry.parent, shutil.disk_usage("/")
    for name, age_s in (("old", 300), ("middle", 200), ("new", 100)):
        plant_entry(folder, name, 50, age_s)

    def disk(path: Path) -> object:
        gone = sum(not (path / name).exists() for name in ("old", "middle", "new"))
        return usage._replace(free=free + 50 * gone)

    monkeypatch.setattr(array_cache.shutil, "disk_usage", disk)
    arrays = cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    assert {path.name for path in folder.iterdir()} == left
    assert ("stay in memory" in caplog.text) == (arrays is None) == ("key" not in left)


def test_finding_an_entry_counts_as_using_it(entry: Path) -> None:
    cached(entry, SHAPES, BYTES, batches, GIB, WHAT)
    os.utime(entry, (1.0, 1.0))
    plant_entry(entry.parent, "another", 10, 60)
    cached(entry, SHAPES, BYTES, never, 200, WHAT)
    assert [path.name for path in entry.parent.iterdir()] == ["key"]


def test_what_a_crash_left_goes_after_a_day(tmp_path: Path) -> None:
    plant_entry(tmp_path, ".begun", 10, 3600)
    plant_entry(tmp_path, ".left", 10, 2 * 24 * 3600)
    plant_entry(tmp_path, "kept", 10, 2 * 24 * 3600)
    lock = tmp_path / ".left.lock"
    lock.touch()
    os.utime(lock, (1.0, 1.0))
    evict_least_recent(tmp_path, 100)
    assert {entry.name for entry in tmp_path.iterdir()} == {".begun", "kept"}
