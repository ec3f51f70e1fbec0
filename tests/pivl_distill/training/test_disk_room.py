"""Room on the disk: what a run writes, and the cache on the same disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pivl_distill.errors import PivlError
from pivl_distill.storage.cache_dir import cache_dir
from pivl_distill.training import disk_room
from pivl_distill.training.disk_room import LOGS_BYTES, CacheEntry, check_room, training_bytes
from small_run import SETTINGS, small_network

NEEDED = 1 << 22


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """`free(size)` leaves so many bytes on every disk."""
    return lambda size: monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: SimpleNamespace(free=size)
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIVL_DISTILL_CACHE", str(tmp_path / "cache"))


def test_a_run_that_fits_is_accepted_to_the_byte(tmp_path: Path, free) -> None:
    folder = tmp_path / "not" / "yet"
    free(NEEDED + LOGS_BYTES)
    check_room(folder, NEEDED, [])
    free(NEEDED + LOGS_BYTES - 1)
    with pytest.raises(
        PivlError, match=r"up to 5 MiB to .*yet, but that disk has 5 MiB left\. Free"
    ):
        check_room(folder, NEEDED, [])
    assert not folder.parent.exists()


def test_files_of_a_resumed_run_count_as_written(tmp_path: Path, free) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "progress").write_bytes(bytes(NEEDED))
    free(LOGS_BYTES)
    check_room(tmp_path, NEEDED, [])


def test_cache_entries_count_on_the_same_disk_until_they_exist(tmp_path: Path, free) -> None:
    entry = CacheEntry("crops", 4096)
    free(NEEDED + LOGS_BYTES)
    with pytest.raises(PivlError, match=r"4 KiB to the cache in .*leave out .* with --no-cache"):
        check_room(tmp_path / "run", NEEDED, [entry])
    (cache_dir() / "crops" / "key").mkdir(parents=True)
    np.save(cache_dir() / "crops" / "key" / "pixels.npy", np.zeros(4096, np.uint8))
    check_room(tmp_path / "run", NEEDED, [entry])


def test_a_cache_on_another_disk_is_not_counted(tmp_path: Path, free, monkeypatch) -> None:
    real = disk_room._existing
    device = iter([SimpleNamespace(stat=lambda: SimpleNamespace(st_dev=-1))])
    monkeypatch.setattr(
        disk_room,
        "_existing",
        lambda folder: next(device) if "cache" in folder.name else real(folder),
    )
    free(NEEDED + LOGS_BYTES)
    check_room(tmp_path / "run", NEEDED, [CacheEntry("crops", 1 << 40)])


def test_progress_is_counted_twice_and_the_network_once() -> None:
    network = small_network()
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    kept = sum(t.numel() for t in network.embedding_model().network.state_dict().values())
    assert training_bytes(network, SETTINGS) == 4 * (2 * 3 * values + kept)
    averaged = SETTINGS.model_copy(update={"average_decay": 0.9})
    assert training_bytes(network, averaged) == 4 * (2 * (3 * values + kept) + kept)
